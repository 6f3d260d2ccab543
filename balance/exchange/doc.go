// Package exchange tells each node what the other nodes have: the rows and loads of their machines,
// what they acknowledge, and the requests that wait there.
//
// A [Link] joins one node's [balance.Fleet] to an [Exchange], the engine that carries messages. A
// [Memory] carries them within one process; package nats below this one uses NATS. A process that
// is the only node needs neither.
//
//	link, err := exchange.New(fleet, engine, exchange.Config{Worker: true, Hop: "10.0.0.7:9000"})
//	...
//	g.Go(func() error { return link.Run(ctx) })
//
// For the owners of machines a link implements downscale.Acks and downscale.Demand. Its
// [Link.Others] is for Config.Others of package autostart.
//
// # Subjects
//
//	ebb.<cluster>.row.<region>.<node>    rows that changed, as whole values
//	ebb.<cluster>.load.<region>.<node>   heartbeat: who the node is, loads, newest sequences
//	ebb.<cluster>.ack.<region>.<node>    how far the node has applied other nodes' rows
//	ebb.<cluster>.ask.<region>.<node>    demand: requests in flight and parked at the node
//	ebb.<cluster>.snap.<node>            requests for all rows of the node
//
// A node publishes only under its own name and answers only for itself, which an engine with
// permissions can enforce. A row does not name the machine's owner: the owner is the node that sent
// it.
//
// # Guarantees
//
// The engine may lose, delay, repeat and reorder messages, and may be down. Then:
//
//   - Rows of one owner are applied in the order in which it wrote them. The next message, or the
//     next heartbeat at most a second later, shows that one is missing. The reader then asks the
//     owner for a snapshot: at most 8 requests at once, with backoff after each failure.
//   - A snapshot says after which message it was cut, and only later messages apply on top of it. A
//     snapshot in several parts applies when all have arrived. What is not in it is removed.
//   - What an earlier incarnation of a node said is void once a later one was heard. A node that is
//     told of a later incarnation of itself, as after its clock was set back, takes the next one.
//   - A node is gone after [Config.Expire] of silence by the reader's clock, and only while this
//     node's own messages come back and at least half of all nodes are heard: no node expires
//     because the engine is down. The machines of a gone node are [balance.StateGone] until it is
//     heard again.
//   - [Link.Acked] and [Link.Parked] never guess: while the engine carries nothing, and for
//     [Config.Expire] after it carries again, nothing is acknowledged and nothing is fresh.
//   - A row that cannot be read, or that conflicts with another node's machine, is counted and left
//     out. Its machine is treated as gone; the other rows are applied.
//
// A node that is treated as gone by mistake may still send requests to a machine whose owner has
// stopped it. The closed gate refuses them, and they are retried elsewhere.
//
// # Cost
//
// A heartbeat takes some 80 bytes, and 18 for each machine whose load has changed. It is sent once
// a second, and at each [Config.Interval] in which something changes. To receive the heartbeat of a
// node with 100 machines takes some 0.08 ms, and to follow that node some 45 KiB (see the
// benchmarks). Every node follows all others of its cluster: beyond a few hundred nodes use several
// clusters.
//
// # Messages
//
// A message is a version byte and fields in the encoding of protocol buffers. It carries the
// cluster, the writer's incarnation and a sequence number. A reader ignores fields that it does not
// know, so nodes of two releases work together; field numbers are never reused.
package exchange
