// Package balance decides which machine serves a request, on information that is always late.
//
// A [Fleet] is one node's catalogue of apps and machines; a [Balancer] picks from it and counts
// what this node has in flight; a [Gate], held by a machine's owner, admits or bounces. Three kinds
// of knowledge each have their use:
//
//   - What is shared is late: rows and load reports. They exclude machines, and their mean stands
//     in for what is unknown. A minimum of them is never taken: every node would see the same one
//     and run to the same machine.
//   - What is private is exact: this node's own requests in flight, together with what a machine's
//     owner said in its last reply to this node. Candidates are compared by these.
//   - What the owner says is true: the gate is one atomic word, so a hard limit holds whatever
//     anybody believed. A wrong guess costs one bounce, which puts the guesser right, and a try
//     elsewhere.
//
// A pick takes no lock, reads no clock and does not allocate: scores and orders are kept on write
// in dense arrays for each region, and a pick is a minimum over up to 64 scores, or over a few
// machines drawn by the room that they have. It never waits: when nothing can serve, it says why
// with a [*NoMachineError], which is allocated; package autostart has the waiting room. Picks that
// [Trace] samples allocate too.
//
// [Closest] fills the nearest region first, and gives a slowly moving share away when that region
// is expensive or full; [LeastLoad] treats all regions as one; [Pack] fills one machine after the
// other, so that the rest can stop. A custom [Strategy] sees the same [View]; package balancetest
// checks that it keeps the contract. [Balancer.Explain] says why a pick chooses its machine. Where
// many nodes share few machines, each keeps to a slice of them ([Balancer.SetPeers]). Where
// machines take one to three requests at a time, nobody guesses: their owner hands out the slots
// (package balance/grants) to the nodes that ask for them ([Balancer.Asks]).
//
// The files of this package are of three kinds. Machines, scores, estimates, shares and strategies
// are pure (machine.go, score.go, ageing.go, outlier.go, share.go, view.go, pick.go, strategy.go).
// Cells, regions and gates are atomics, the one place where this package shares memory (cell.go,
// region.go, snapshot.go, gate.go). The fleet and the balancer publish immutable snapshots and
// views over them (fleet.go, update.go, balancer.go, reservation.go).
package balance
