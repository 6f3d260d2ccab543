// Package ebb is the map of a library with which people build load-balancing, scale-to-zero proxies and platforms. It has
// no code of its own; the packages below it have. For every request they decide which machine serves it, whether another
// machine must start, and which one may sleep, across regions, with many proxies, on information that is always late.
//
//	balance     which machine: fleet snapshots, strategies, reservations, and the owner's gate;
//	            below it slots of machines that take a few requests at a time (grants)
//	autostart   is another needed: the one waiting room; below it the planner (policy), the owner's
//	            starter (machine), and drivers
//	downscale   can one sleep: the acknowledged soft cordon, and who goes
//	backhaul    the hop from the proxy that has the client to the one that has the machine
//	rtt         how far: round trip and loss between nodes, measured
//
// A process plays one role or several. An edge has clients: a [balance.Balancer], an [autostart.Autostart] and a
// [backhaul.Transport], which is an http.RoundTripper for httputil.ReverseProxy. A worker has machines, and is the owner of
// each: a [machine.Starter], a [downscale.Downscaler], a [backhaul.Handler] and a driver that runs them. One process that
// is both needs no hop: the Example of examples/embedded wires it so. examples/proxy wires several of each, in three regions.
//
// What is shared is late, what is private is exact, what the owner says is true: every rule of the library is made of these
// three. The owner's [balance.Gate] is one atomic word, so hard limits hold and nothing is sent to a machine that goes to
// sleep, whatever anybody believed; a wrong guess costs one bounce and a try elsewhere.
//
// Each package decides in pure functions, which take the time and random bits as arguments, and acts in a thin shell. Every
// Run method blocks until its context ends. Constructors start nothing.
package ebb

import (
	_ "github.com/ebbkit/ebb/autostart"
	_ "github.com/ebbkit/ebb/autostart/machine"
	_ "github.com/ebbkit/ebb/backhaul"
	_ "github.com/ebbkit/ebb/balance"
	_ "github.com/ebbkit/ebb/downscale"
	_ "github.com/ebbkit/ebb/rtt"
)
