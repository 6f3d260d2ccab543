// Package cordon is the soft cordon: a state machine that stops one machine without losing a
// request. It only decides: a [Machine] takes in what happened, at a time that the caller gives,
// and answers with at most one [Command]. It starts no goroutine, reads no clock and keeps no other
// state, so it runs in a simulation as it does in production. Package downscale is the shell that
// carries out the commands.
//
// A machine that is to stop is soft-cordoned first: it still serves, but others are preferred.
// Every node acknowledges the cordon. A request that comes although its edge knew of the cordon had
// no better choice, so the stop is aborted. Then the machine's gate closes by compare-and-swap at
// zero in flight, and only behind the closed gate is the driver told to stop or suspend.
//
// # Phases
//
// Each line is a change of phase, or a command. The label on the arrow is an event: what a [Look]
// at the machine's gate shows (Up, Down, Acknowledged, Idle, Lingering, Busy, Touched, Uncordoned,
// and Tick, which means that time has passed), what somebody wants ([Machine.Surplus],
// [Machine.Needed], [Machine.Order] is Ordered, [Machine.Withdraw] is Withdrawn), or the answer to
// a command: [Machine.Done] is Cordoned, Closed or Done, [Machine.Failed] is Refused or Failed, and
// [Machine.Unknown]. Other events are recorded if they matter later (an acknowledgement, idleness),
// and otherwise change nothing; nor do answers to any command but the last. A start that somebody
// wants while the gate is closed is not an event: the gate remembers it.
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
// A machine stops because it is surplus, or because somebody orders it, for a deploy or for
// maintenance. A surplus stop gives way to everything: a request, a connection, a missing
// acknowledgement. An order does not depend on acknowledgements: after [Config].CordonMax it no
// longer waits for missing ones, since the gate protects nodes that do not know. An order without
// Drain still gives way to whatever is in flight. One with Drain closes the gate while requests are
// in flight, tells the connections to end, and gives both that long.
//
// # Invariants
//
//   - Suspend is only commanded behind a gate with nothing in flight, and so is Stop, except when
//     the Drain of an order ends: by then all connections have been told.
//   - For a surplus machine Close is only commanded after every live node acknowledged the cordon
//     and the machine was idle for [Config].Quiet since.
//   - At most one Stop or Suspend is under way.
//   - A cordon ends, by a close or by Uncordon, within CordonMax, plus Notice if there are
//     connections to tell; an order may take CordonMax once more.
//   - If the driver fails to suspend a machine, the machine is stopped: its state is then unknown,
//     and stopped is a state that can be verified.
//   - Safety depends on no timer and on no acknowledgement: the gate decides who is admitted.
//
// A test visits every state that the machine, its gate, its driver and the nodes can reach
// together, checks these invariants in each, and compares the diagram above with what it saw.
package cordon
