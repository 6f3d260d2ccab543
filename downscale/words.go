package downscale

import (
	"fmt"
	"time"
)

// Phase is where a [Protocol] stands with its machine.
type Phase uint8

// The phases.
const (
	Stopped      Phase = iota // it does not run: stopped, suspended, failed, or starting
	Active                    // it runs and nobody wants it stopped
	SoftCordoned              // it is avoided; the next request that has nothing better saves it
	Notifying                 // soft-cordoned, and its long connections have been told
	Closing                   // the gate has been asked to close
	Draining                  // the gate has closed over what is in flight, by order; connections have been told
	Suspending                // the gate is closed, the driver suspends
	Stopping                  // the gate is closed, the driver stops
	Stuck                     // the gate is closed and the driver has been silent for too long, or did not know
)

var phaseNames = [...]string{"stopped", "active", "soft-cordoned", "notifying", "closing", "draining", "suspending", "stopping", "stuck"}

// String returns the phase's name as it stands in logs.
func (p Phase) String() string { return name(phaseNames[:], uint8(p), "phase") }

// Kind is what an [Input] tells.
type Kind uint8

// The kinds of input.
const (
	Tick         Kind = iota // time has passed
	Up                       // the gate says that the machine is started
	Down                     // the gate says that it is not, and not by this protocol's doing
	Surplus                  // the decider can spare it
	Needed                   // the decider cannot spare it any longer, or somebody recalled it
	Ordered                  // somebody wants it stopped, whether it is surplus or not
	Withdrawn                // whoever ordered the stop does not want it any longer
	Touched                  // a request that knew the cordon came all the same
	Acknowledged             // every live node knows the cordon
	Idle                     // nothing is in flight, and nothing came since the last look
	Lingering                // the same, but for long connections that may be told
	Busy                     // something is, or did
	Uncordoned               // the gate says that the cordon is gone, and not by this protocol's doing
	Cordoned                 // the gate has carried out Cordon
	Closed                   // the gate has carried out Close or CloseNow
	Refused                  // the gate would not carry out Cordon, Close or CloseNow
	Done                     // the driver has carried out Stop or Suspend
	Failed                   // the driver could not; the machine still runs
	Unknown                  // the driver does not know: it ran into its timeout
)

var kindNames = [...]string{
	"Tick", "Up", "Down", "Surplus", "Needed", "Ordered", "Withdrawn", "Touched", "Acknowledged",
	"Idle", "Lingering", "Busy", "Uncordoned", "Cordoned", "Closed", "Refused", "Done", "Failed",
	"Unknown",
}

// String returns the kind's name as it stands in the diagram of [Protocol].
func (k Kind) String() string { return name(kindNames[:], uint8(k), "input") }

// Input is what a [Protocol] is told. Fields that the kind does not name are not read.
type Input struct {
	Kind    Kind
	Token   uint64 // Cordoned, Closed, Refused, Done, Failed, Unknown: of the command that it answers
	Gate    uint64 // Cordoned, Acknowledged: the cordon's generation; Closed: the gate's token
	Idle    bool   // Surplus: the whole app is idle; that the machine was needed a moment ago is no reason to wait
	Suspend bool   // Surplus, Ordered: suspend rather than stop
	Reason  string // Surplus, Needed, Ordered: a sentence for people
	// Drain, of Ordered, is how long what is in flight may take behind the closed gate; 0 means that whatever is in flight
	// keeps the machine from being stopped.
	Drain time.Duration
}

// Act is what a [Command] asks for.
type Act uint8

// The acts.
const (
	None     Act = iota
	Cordon       // Gate.Cordon; answer Cordoned with the generation, or Refused
	Uncordon     // Gate.Uncordon of generation Gate; no answer
	Notify       // tell the long connections that may be told, or All; no answer
	Close        // Gate.Close of generation Gate; answer Closed with the gate's token, or Refused
	CloseNow     // Gate.CloseNow; answer Closed with the gate's token, or Refused
	Reopen       // Gate.Reopen with token Gate; no answer
	Suspend      // Driver.Suspend; answer Done, Failed or Unknown
	Stop         // Driver.Stop; answer Done, Failed or Unknown
	Finish       // Gate.Closed with token Gate; no answer
	Alarm        // tell people that the machine is stuck; no answer
)

var actNames = [...]string{"-", "Cordon", "Uncordon", "Notify", "Close", "CloseNow", "Reopen", "Suspend", "Stop", "Finish", "Alarm"}

// String returns the act's name as it stands in the diagram of [Protocol].
func (a Act) String() string { return name(actNames[:], uint8(a), "act") }

// Command is what a [Protocol] wants done. The zero value is nothing.
type Command struct {
	Do      Act
	Token   uint64 // to be echoed by the answer: an answer with another token changes nothing
	Gate    uint64 // Uncordon, Close: the cordon's generation; Reopen, Suspend, Stop, Finish: the gate's token
	Suspend bool   // Close: to suspend; Finish: the machine is suspended
	All     bool   // Notify: of every class
	Reason  string // a sentence for people
}

func name(names []string, i uint8, kind string) string {
	if int(i) < len(names) {
		return names[i]
	}
	return fmt.Sprintf("%s(%d)", kind, i)
}
