// Package balance decides which machine serves a request, on information that is always late.
//
// A [Fleet] is one node's catalogue of apps and machines; a [Balancer] picks from it and counts
// what this node has in flight; a [Gate], held by a machine's owner, admits or bounces. There are
// three kinds of knowledge, each with its use:
//
//   - What is shared is late: rows and load reports. They exclude machines, and their mean stands
//     in for what is unknown. Their minimum is never used: every node would see the same one and
//     send its requests to the same machine.
//   - What is private is exact: this node's own requests in flight, together with what a machine's
//     owner said in its last reply to this node. Candidates are compared by these.
//   - What the owner says is true: the gate is one atomic word, so a hard limit holds whatever
//     other nodes assumed. A wrong guess costs one bounce, which corrects the guess, and a retry
//     elsewhere.
//
// A pick takes no lock, reads no clock and does not allocate. Scores and orders are updated on
// write in dense arrays for each region, and a pick is a minimum over up to 64 scores, or over a
// few machines that are drawn with weights by their room. It never waits: when nothing can serve
// the request, it says why with a [*NoMachineError], which is allocated; package autostart has the
// waiting room. Picks that [Trace] samples allocate too.
//
// [Closest] fills the nearest region first, and gives a slowly changing share away when that region
// is expensive or full; [LeastLoad] treats all regions as one; [Pack] fills one machine after the
// other, so that the rest can stop. A custom [Strategy] sees the same [View]; package balancetest
// checks that it keeps the contract. [Balancer.Explain] says why a pick chooses its machine. Where
// many nodes share few machines, each keeps to a slice of them ([Balancer.SetPeers]). Where
// machines take one to three requests at a time, nodes do not guess: the owner hands out the slots
// (package balance/grants) to the nodes that ask for them ([Balancer.Asks]).
//
// The files of this package are of three kinds. Machines, scores, estimates, shares and strategies
// are pure (machine.go, score.go, ageing.go, outlier.go, share.go, view.go, pick.go, strategy.go).
// Cells, regions and gates are atomics, the one place where this package shares memory (cell.go,
// region.go, snapshot.go, gate.go). The fleet and the balancer publish immutable snapshots and
// views over them (fleet.go, update.go, balancer.go, reservation.go).
package balance
