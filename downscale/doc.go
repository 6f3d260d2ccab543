// Package downscale stops idle machines without losing a request.
//
// The owner of machines runs a [Downscaler] for them. It drives three cores that only decide:
//
//   - a [policy.Policy] per app says which machines are surplus. The default is
//     [policy.Decider]: an app that nobody uses goes to its minimum when its keep-alive is over;
//     a busy app gives up machines that the largest load of the last minutes does not justify;
//   - a [cordon.Machine] per machine makes the stop safe. The machine is soft-cordoned first, so
//     that requests go elsewhere, and every node acknowledges the cordon. A request that comes
//     although its edge knew of the cordon had no better choice, so it aborts the stop. Then the
//     gate closes by compare-and-swap at zero in flight. The driver is called only behind a closed
//     gate;
//   - the loop between them looks at the gates, asks the policies, and says what to do next.
//
// Deploys, maintenance and other rules stop machines by the same protocol, through
// [Downscaler.Stop]. They do not depend on the acknowledgement of every node, since the gate
// protects whoever does not know; their [Order] says how long they wait for what is in flight.
//
// Long connections (WebSockets, streams, raw TCP) count as load and keep their machine running;
// [Trace].Held reports which, once. Those of the classes in [Config].Notify do not: whatever
// forwards them ([Connections]; package backhaul has one) tells them to end, they get 5 s to do so,
// and only then does the gate close. No machine is ever suspended while it has a connection. A long
// connection that has carried no data for [balance.App].IdleAfter does not keep a machine running
// either, not even the last one of its app: it is told to end in the same way. Only data counts,
// not open sockets, because servers send pings to keep connections alive.
//
// Safety depends on no timer and on no fresh report. Late information delays a stop and never fails
// a request: if anything is in doubt (a missing acknowledgement, an old report, a driver that does
// not answer), either the machine runs on, or its closed gate sends callers elsewhere. The gate
// remembers a start that was asked for during a stop. Whatever starts this node's machines performs
// it afterwards: a machine.Starter of package autostart, or another [balance.Keeper].
//
// Several downscalers, each for its own machines, need not agree on anything. Each enforces the
// bounds for its machines, and the canonical order that all share preserves the minimum. If [Views]
// tells them each other's loads, together they stop the machines that a single downscaler would.
//
// No state of the package has to survive a restart: a new Downscaler finds the cordons that an
// earlier one left in the gates, and releases them.
package downscale
