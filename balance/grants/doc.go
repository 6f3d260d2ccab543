// Package grants hands out the slots of machines that take one to three requests at a time, such
// as GPUs. Nobody can guess which of them is free now, so their owner says it: a [Granter] at the
// owner reserves a free slot and gives it to the node at which most requests wait.
//
// Messages go around like this; each may be lost, late or doubled:
//
//	edge   Balancer.Asks            --how many wait-->    Granter.Ask   owner
//	edge   Balancer.AcceptGrant     <--a slot--           Config.Give   owner
//	edge   Reservation.GrantToken   --with a request-->   Gate.Enter    owner
//
// Package backhaul carries the token of a slot with its request; the other two messages are for
// whoever wires nodes together.
//
// # Why the package ends here
//
// Only the decision who gets the next slot is here. A slot that is reserved counts as in flight in
// the one word of a gate, so that a machine cannot close under it: that part is [balance.Gate]'s.
// The slots that an edge has at hand are part of the score by which it picks, and a pick takes one
// without a lock: that part is [balance.Balancer]'s. What both agree on, which machines are granted
// at all, is [balance.Limits.Granted]. So this package sees gates from outside, and another policy
// of handing out slots can be written in the same way.
package grants
