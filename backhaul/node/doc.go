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
// # Several nodes
//
// Where edges and workers are apart, each is a node with a [Role], a name, an
// [exchange.Exchange] that all of them use, and a secret or certificates by which they know each
// other. What owners and edges tell goes through the exchange, which may lose it, and be away. What
// one asks of another goes over the hop, beside requests: to start, recall or stop a machine, for
// slots, for an app that an edge has not heard of. So machines wake while the exchange is away, and
// nothing is stopped meanwhile: nobody knows then what waits elsewhere.
//
//   - A node that is lost: its requests are tried elsewhere as far as that does no harm, see package
//     backhaul; its machines count as gone after [exchange.Config].Expire, and others are started.
//   - A node that comes back speaks in a later incarnation; what the earlier one said is void.
//   - A node that ends in order has its machines avoided by all before it refuses anything, and
//     refuses until all know that they have stopped: no request finds nobody.
//   - An edge that is late learns from a refusal which machines are ready instead.
//   - A request for an app of which an edge has heard nothing has the workers asked, once in 10 s for
//     each app, before it is answered with 404.
//
// The configurations of the parts are fields of [Config], strategies and policies among them; the
// parts themselves are reached with [Node.Fleet], [Node.Balancer], [Node.Downscaler] and [Node.Link].
// Who needs another wiring writes it out: examples/embedded shows how.
package node
