// Package downscale stops idle machines without losing a request.
//
// The owner of machines runs a [Downscaler] for them. It drives three cores that only decide:
//
//   - a [policy.Policy] per app says which machines are surplus. The default is [policy.Decider]: an
//     app that nobody uses goes to its minimum when its keep-alive is over; a busy one gives up what
//     the largest load of the last minutes does not justify;
//   - a [cordon.Machine] per machine makes the stop safe. The machine is soft-cordoned first, so
//     that requests go elsewhere, and every node acknowledges that. A request that knew of the cordon
//     and came all the same had nothing better, so it aborts the stop. Then the gate closes by
//     compare-and-swap at zero in flight, and only behind a closed gate is the driver told;
//   - the loop between them looks at the gates, asks the policies, and says what to do next.
//
// Deploys, maintenance and other rules stop machines by the same protocol, through
// [Downscaler.Stop]. They do not depend on the acknowledgement of every node, since the gate
// protects whoever does not know; their [Order] says how long they wait for what is in flight.
//
// Long connections (WebSockets, streams, raw TCP) are load, and keep their machine: [Trace].Held
// says which, once. Those of the classes in [Config].Notify keep none: whoever forwards them
// ([Connections]; package backhaul has one) tells them to end, they have 5 s for it, and only then
// does the gate close. No machine is ever suspended under a connection. A long connection that has
// carried no data for [balance.App].IdleAfter keeps no machine either, not even the last one of
// its app: it is told in the same way. Data counts, not sockets: servers ping to keep connections
// alive.
//
// Safety depends on no timer and on no report being fresh. Late news stops a machine later, and
// never fails a request: whatever is in doubt (a missing acknowledgement, an old report, a silent
// driver) ends in the machine running on, or in a closed gate that sends callers elsewhere. The
// gate remembers a start that somebody wants during a stop. It is made afterwards by whatever
// starts this node's machines: a machine.Starter of package autostart, or another
// [balance.Keeper].
//
// Several downscalers, each for its own machines, need not agree on anything: each keeps the
// bounds of its machines, and the order that all share keeps the minimum. Where [Views] tells them
// loads, they also stop together what one of them would.
//
// Nothing that the package remembers has to survive: a new Downscaler finds what an earlier one
// left in the gates, and releases it.
package downscale
