// Package downscale puts machines to sleep that nobody needs, without losing a request.
//
// A machine's owner runs it, for the machines it hosts. Two cores decide and a shell acts:
//
//   - a [policy.Policy] per app says which machines are surplus. The default is [policy.Decider]: an app that nobody uses goes to its
//     minimum when its keep-alive is over, a busy one gives up what the largest load of the last minutes does not justify;
//   - a [cordon.Machine] per machine makes the stop safe. The machine is soft-cordoned first, so that requests go elsewhere, and
//     every node acknowledges that. A request that knew of it and came all the same had nothing better: the stop is
//     aborted. Then the gate closes by compare-and-swap at zero in flight, and only behind a closed gate is the driver told;
//   - a [Downscaler] looks at the gates, steps the cores, and calls the driver.
//
// Deploys, maintenance and rules from elsewhere stop machines by the same protocol, through [Downscaler.Stop]. They proceed
// without the acknowledgement of every node, since the gate protects whoever does not know; how much they wait for what is
// in flight their [Order] says.
//
// Long connections (WebSockets, streams, raw TCP) are load, and keep their machine: [Trace].Held says which, once. Where
// [Config.Notify] says so they are told first, by whoever forwards them ([Connections]; package backhaul has one), have [Config.Notice] to end, and only then does the gate close. No machine is ever suspended under a connection.
// A long connection that has carried no data for [balance.App].IdleAfter keeps no machine, the last one of its app neither: it
// is told as those of Notify are. Data counts, not sockets: servers ping to keep connections alive.
//
// Safety depends on no timer and on no report being fresh. What is late makes a machine sleep
// later, never a request fail: whatever is in doubt (a missing acknowledgement, an old report, a
// silent driver) ends in the machine running on, or in a closed gate that sends callers elsewhere.
// A start that somebody wants during a stop is remembered by the gate, and done afterwards by
// whoever starts this node's machines: a machine.Starter, or another [balance.Keeper]. Several
// downscalers, each for its own machines, need not agree on anything: each vetoes for its machines,
// and the order that all share keeps the minimum. With [Loads] they also stop together what one of
// them would.
//
// Nothing that the package remembers has to survive: a Downscaler that starts anew finds leftovers of an earlier one in the
// gates and releases them.
package downscale
