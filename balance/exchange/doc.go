// Package exchange tells nodes what other nodes have: the rows and loads of their machines, what
// they acknowledge, and the requests that wait there.
//
// A [Link] joins one node's [balance.Fleet] to an [Exchange], the engine that carries messages.
// A [Memory] carries them within one process; package nats below this one uses NATS. A process that
// is the only node needs neither.
//
//	link, err := exchange.New(fleet, engine, exchange.Config{Worker: true, Hop: "10.0.0.7:9000"})
//	...
//	g.Go(func() error { return link.Run(ctx) })
//
// A link is the downscale.Acks and the downscale.Demand of the owners of machines, and its
// [Link.Others] is autostart's Config.Others.
//
// # Subjects
//
//	ebb.<cluster>.row.<region>.<node>    rows that changed, as whole values
//	ebb.<cluster>.load.<region>.<node>   heartbeat: who the node is, loads, newest sequences
//	ebb.<cluster>.ack.<region>.<node>    up to where the node picks by other nodes' rows
//	ebb.<cluster>.ask.<region>.<node>    requests in flight and parked at the node
//	ebb.<cluster>.snap.<node>            requests for all rows of the node
//
// A node publishes only under its own name and answers only for itself, which an engine with
// permissions can enforce. A row does not say who owns the machine: it is whoever sent it.
//
// # Guarantees
//
// The engine may lose, delay, repeat and reorder messages, and be away. Then:
//
//   - Rows of one owner are applied in the order in which it wrote them. A message that is missing
//     shows by the next one, or by the next heartbeat, at most a second later; the reader then asks
//     the owner for a snapshot: 8 questions at once, longer waits after each that fails.
//   - A snapshot says after which message it was cut; messages that arrive meanwhile apply only
//     beyond it. One in several parts applies when all are there. What is not in it is removed.
//   - What an earlier incarnation of a node said is void once a later one was heard. A node that is
//     told that a later incarnation of it is known, since its clock was set back, takes the next.
//   - A node is gone after [Config.Expire] of silence by the reader's clock, and only while this
//     node's own messages come back and at least half of all nodes are heard: an engine that stands
//     still takes nobody away. Its machines are then [balance.StateGone] until it is heard again.
//   - [Link.Acked] and [Link.Parked] say nothing they do not know: while the engine carries nothing,
//     and for [Config.Expire] after it does again, there is no acknowledgement and nothing is fresh.
//   - A row that cannot be read, or that another node's machine contradicts, is counted and left
//     out: its machine is taken for gone, the other rows stand.
//
// A node that is taken for gone in error may still send requests to a machine whose owner has
// stopped it: the closed gate refuses them, and they are tried elsewhere.
//
// # Cost
//
// A heartbeat takes some 80 bytes, and 18 for each machine whose load has changed; it is sent once a
// second, or at each [Config.Interval] in which something changes. To hear one of 100 machines takes
// some 0.08 ms, and a node of 100 machines that is followed some 45 KiB (see the benchmarks). Every
// node follows all others of its cluster: beyond a few hundred use several clusters.
//
// # Messages
//
// A message is a version byte and fields in the encoding of protocol buffers. It carries the
// cluster, the writer's incarnation and a sequence. Fields that a reader does not know are passed
// over, so that nodes of two releases work together; field numbers are never reused.
package exchange
