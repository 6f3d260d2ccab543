// Package grants hands out the slots of machines that take one to three requests at a time, such as
// GPUs. Other nodes cannot know which of these machines is free, so their owner decides: its
// [Granter] reserves a free slot and gives it to the node at which most requests wait.
//
// These messages are exchanged; each may be lost, late or doubled:
//
//	edge   Balancer.Asks            --how many wait-->    Granter.Ask   owner
//	edge   Balancer.AcceptGrant     <--a slot--           Config.Give   owner
//	edge   Reservation.GrantToken   --with a request-->   Gate.Enter    owner
//
// Package backhaul carries the token of a slot with its request; the program that connects the
// nodes carries the other two messages.
//
// # Why the package ends here
//
// This package only decides who gets the next slot. Two parts are elsewhere. A reserved slot counts
// as in flight in the one word of a gate, so that a machine cannot close while it is reserved:
// [balance.Gate] does that. The slots that an edge holds are part of the score by which it picks,
// and a pick takes one without a lock: [balance.Balancer] does that. Both use
// [balance.Limits.Granted], which says whose slots are granted. So this package uses only the
// public methods of gates, and another policy for handing out slots can be written in the same way.
package grants
