// Package node wires the library's parts into one process: an edge that has clients, a worker that
// has machines, or both. Its user writes only configuration.
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
// Whatever is configured, a node has what the guarantees need. It answers requests that could not
// be served, notices clients that leave while they wait, and knows the class of long connections.
// It checks machines before and after they are ready, and learns how long to keep them alive. It
// shuts down in the order in which nothing is lost.
//
// # Several nodes
//
// Where edges and workers are separate processes, each is a node with a [Role], a name, an
// [exchange.Exchange] that all of them use, and a secret or certificates by which they authenticate
// each other. What owners and edges publish goes through the exchange, which may lose messages and
// may be down. What one node asks of another goes over the hop, beside requests: to start, recall
// or stop a machine, to ask for slots, to ask for an app that an edge has not heard of. So machines
// wake while the exchange is down. Nothing is stopped meanwhile, because no node knows then what
// waits elsewhere.
//
//   - A node that is lost: its requests are retried elsewhere as far as that is safe, see package
//     backhaul. Its machines count as gone after [exchange.Config].Expire, and others are started.
//   - A node that comes back has a later incarnation. What the earlier one published is void.
//   - A node that shuts down in order first has all nodes avoid its machines, then refuses
//     requests. It goes on refusing until all nodes know that its machines have stopped, so no
//     request finds nobody listening.
//   - An edge whose view is late learns from a refusal which machines are ready instead.
//   - For a request for an app that an edge has not heard of, the edge asks the workers before it
//     answers 404, at most once in 10 s for each app.
//
// The configurations of the parts are fields of [Config], strategies and policies among them. The
// parts themselves are reached with [Node.Fleet], [Node.Balancer], [Node.Downscaler] and
// [Node.Link]. If you need another wiring, write it out as examples/embedded does.
package node
