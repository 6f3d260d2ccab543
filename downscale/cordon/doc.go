// Package cordon is the soft cordon: a state machine that stops one machine without losing a
// request. It decides and does nothing: a [Machine] takes in what happened, at a time that the
// caller gives, and answers with at most one [Command]. It starts no goroutine, reads no clock and
// keeps nothing elsewhere, so it runs in a simulation as it does in production; package downscale
// is the shell that carries the commands out.
//
// A machine that is to stop is soft-cordoned first: it still serves, but others are preferred.
// Every node acknowledges that it knows. A request that knew of the cordon and came all the same
// had nothing better, so the stop is aborted. Then the machine's gate closes by compare-and-swap
// at zero in flight, and only behind the closed gate is the driver told to stop or suspend.
//
// # Phases
//
// Each line is a change of phase, or a command. What stands on the arrow is an event: what a [Look]
// at the machine's gate shows (Up, Down, Acknowledged, Idle, Lingering, Busy, Touched, Uncordoned,
// and Tick, time that has passed), what somebody wants ([Machine.Surplus], [Machine.Needed],
// [Machine.Order] is Ordered, [Machine.Withdraw] is Withdrawn), or the answer to a command:
// [Machine.Done] is Cordoned, Closed or Done, [Machine.Failed] is Refused or Failed, and
// [Machine.Unknown]. Other events are noted where they matter later (an acknowledgement, idleness)
// or change nothing, and so do answers to any command but the last. A start that somebody wants
// while the gate is closed is no event: the gate remembers it.
//
//	stopped       --Up-->           active
//	active        --Down-->         stopped
//	active        --Surplus-->      soft-cordoned  Cordon
//	active        --Ordered-->      soft-cordoned  Cordon
//	soft-cordoned --Cordoned-->     active         Uncordon
//	soft-cordoned --Cordoned-->     closing        CloseNow
//	soft-cordoned --Idle-->         closing        Close
//	soft-cordoned --Lingering-->    notifying      Notify
//	soft-cordoned --Tick-->         notifying      Notify
//	soft-cordoned --Tick-->         closing        Close
//	soft-cordoned --Tick-->         active         Uncordon
//	soft-cordoned --Touched-->      active         Uncordon
//	soft-cordoned --Needed-->       active         Uncordon
//	soft-cordoned --Withdrawn-->    active         Uncordon
//	soft-cordoned --Acknowledged--> closing        CloseNow
//	soft-cordoned --Tick-->         closing        CloseNow
//	soft-cordoned --Uncordoned-->   closing        CloseNow
//	soft-cordoned --Refused-->      active
//	soft-cordoned --Uncordoned-->   active
//	soft-cordoned --Down-->         stopped
//	notifying     --Idle-->         closing        Close
//	notifying     --Tick-->         closing        Close
//	notifying     --Tick-->         active         Uncordon
//	notifying     --Touched-->      active         Uncordon
//	notifying     --Needed-->       active         Uncordon
//	notifying     --Withdrawn-->    active         Uncordon
//	notifying     --Ordered-->      soft-cordoned
//	notifying     --Uncordoned-->   active
//	notifying     --Down-->         stopped
//	closing       --Closed-->       draining       Notify
//	closing       --Closed-->       stopping       Stop
//	closing       --Closed-->       suspending     Suspend
//	closing       --Refused-->      soft-cordoned
//	closing       --Refused-->      active         Uncordon
//	draining      --Idle-->         stopping       Stop
//	draining      --Idle-->         suspending     Suspend
//	draining      --Tick-->         stopping       Stop
//	suspending    --Done-->         stopped        Finish
//	suspending    --Failed-->       stopping       Stop
//	suspending    --Unknown-->      stopping       Stop
//	suspending    --Tick-->         stuck          Alarm
//	stopping      --Done-->         stopped        Finish
//	stopping      --Failed-->       active         Reopen
//	stopping      --Failed-->       stuck          Alarm
//	stopping      --Unknown-->      stuck          Alarm
//	stopping      --Tick-->         stuck          Alarm
//	stuck         --Done-->         stopped        Finish
//	stuck         --Failed-->       active         Reopen
//	stuck         --Failed-->       stopping       Stop
//	stuck         --Unknown-->      stopping       Stop
//	stuck         --Tick-->         stopping       Stop
//
// # Surplus and orders
//
// A machine stops because it is surplus, or because somebody orders it, for a deploy or
// maintenance. Surplus gives way to everything: a request, a connection, a missing
// acknowledgement. An order does not depend on acknowledgements: what is missing after
// [Config].CordonMax is taken as given, since the gate protects who does not know. An order
// without Drain still gives way to whatever is in flight; one with Drain closes the gate over it,
// tells the connections, and gives both that long.
//
// # Invariants
//
//   - Suspend is only commanded behind a gate with nothing in flight, and so is Stop, but for the
//     end of an order's Drain: then all connections have been told.
//   - For a surplus machine Close is only commanded after every live node acknowledged the cordon
//     and the machine was idle for [Config].Quiet since.
//   - At most one Stop or Suspend is under way.
//   - A cordon ends, by a close or by Uncordon, within CordonMax, and Notice where there are
//     connections to be told; an order may take CordonMax once more.
//   - A driver's failure to suspend leads to a stop: where the machine stands is then unknown, and
//     stopped is a state that can be known.
//   - Safety depends on no timer and on no acknowledgement: the gate decides who is admitted.
//
// A test visits every state that the machine, its gate, its driver and the nodes can reach
// together, holds these promises in each, and compares the diagram above with what it saw.
package cordon
