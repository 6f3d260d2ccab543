// Package nats carries the messages of package exchange over NATS, and keeps what people write in a
// key-value bucket of its JetStream.
//
//	conn, err := nats.Connect("nats://nats.internal:4222", nats.Config{
//		Node: "worker-1", Credentials: "/etc/ebb/worker-1.creds",
//	})
//	...
//	link, err := exchange.New(fleet, conn, exchange.Config{Cluster: "prod", Worker: true})
//	store, err := conn.Store("prod")
//
// Messages use core NATS: the server keeps none of them, and a reader that missed some asks their
// writer. Only the store needs JetStream. Its bucket is "ebb_" and the cluster's name, with few
// keys and one replica. Several clusters may share a server.
//
// The connection reconnects forever. What is published meanwhile is dropped rather than buffered
// and sent late: readers would treat it as old, and ask. After each reconnect the links request
// snapshots, and watches of the store are reopened, since a watch that stays open may be silent for
// seconds and then skip updates.
//
// Package embedded, below this one, runs a server within the process.
//
// # Permissions
//
// A node publishes under its own name only, and answers for itself only. With these permissions the
// server enforces it: no node can write another's rows. <c>, <r> and <n> are the cluster, the
// region and the node as [exchange.Subject.String] writes them.
//
//	publish:   ebb.<c>.*.<r>.<n>, ebb.<c>.snap.*
//	subscribe: ebb.<c>.*.*.*, ebb.<c>.snap.<n>, _INBOX_<n>.>
//	allow_responses: true
//
// A node that reads the store, and one that writes it, also publish
//
//	$JS.API.STREAM.INFO.KV_ebb_<c>, $JS.API.DIRECT.GET.KV_ebb_<c>.>, $JS.FC.KV_ebb_<c>.>,
//	$JS.API.CONSUMER.CREATE.KV_ebb_<c>.>, $JS.API.CONSUMER.DELETE.KV_ebb_<c>.>
//	$KV.ebb_<c>.>
//	$JS.API.INFO, $JS.API.STREAM.CREATE.KV_ebb_<c>: for the node that makes the bucket
//
// Inboxes begin with _INBOX_<n>, so that no node hears another's answers.
package nats
