// Package node wires the library's parts to one process: an edge that has clients, a worker that
// has machines, or both. What its user writes is configuration.
//
//	gateway, err := node.New(node.Config{
//		Apps: []node.App{{
//			App:      balance.App{ID: "web", Autostart: true, Autostop: balance.AutostopStop},
//			Machines: 2,
//		}},
//		Driver:   driver,
//		Listener: listener,
//	})
//	…
//	err = gateway.Run(ctx)
//
// A node has what the guarantees need, whatever is configured: answers for requests that could not
// be served, clients that leave noticed while they wait, long connections known by class, checks of
// machines before and after they are ready, keep-alive that learns, and an end in the order in
// which nothing is lost.
//
// The configurations of the parts are fields of [Config], strategies and policies among them; the
// parts themselves are reached with [Node.Fleet], [Node.Balancer] and [Node.Downscaler]. Who needs
// another wiring writes it out: examples/embedded shows how.
package node
