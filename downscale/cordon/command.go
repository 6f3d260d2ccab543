package cordon

import (
	"time"

	"github.com/ebbkit/ebb/internal/enum"
)

// Act is what a [Command] asks for.
type Act uint8

// The acts. The gate and driver methods that they name are those of package balance and of package
// downscale; any others that do the same serve as well.
const (
	ActNone     Act = iota
	ActCordon       // Gate.Cordon; answer Done with the generation, or Failed
	ActUncordon     // Gate.Uncordon of generation Gate; no answer
	ActNotify       // tell the long connections of the allowed classes, or All, to end; no answer
	ActClose        // Gate.Close of generation Gate; answer Done with the gate's token, or Failed
	ActCloseNow     // Gate.CloseNow; answer Done with the gate's token, or Failed
	ActReopen       // Gate.Reopen with token Gate; no answer
	ActAbandon      // Gate.Abandon with token Gate; no answer
	ActSuspend      // Driver.Suspend; answer Done, Failed or Unknown
	ActStop         // Driver.Stop; answer Done, Failed or Unknown
	ActFinish       // Gate.Closed with token Gate; no answer
	ActAlarm        // report that the machine is stuck; no answer
)

var actNames = [...]string{
	"-", "Cordon", "Uncordon", "Notify", "Close", "CloseNow", "Reopen", "Abandon", "Suspend", "Stop",
	"Finish", "Alarm",
}

// String returns the act's name as it stands in the diagram of the package comment.
func (a Act) String() string { return enum.String(actNames[:], uint8(a), "act") }

// MarshalText returns the act's name; a value without one is an error.
func (a Act) MarshalText() ([]byte, error) {
	return enum.Marshal("cordon: act", actNames[:], uint8(a))
}

// UnmarshalText is the inverse of [Act.MarshalText]; the error lists the names.
func (a *Act) UnmarshalText(text []byte) error {
	return enum.Unmarshal(a, "cordon: act", actNames[:], text)
}

// Command is what a [Machine] wants done. The zero value is nothing.
type Command struct {
	Do Act
	// Token identifies a command that wants an answer: an answer to any but the last changes
	// nothing.
	Token uint64
	// Uncordon, Close: the cordon's generation; Reopen, Abandon, Suspend, Stop, Finish: the
	// gate's token
	Gate    uint64
	Suspend bool          // Close: to suspend; Finish: the machine is suspended
	All     bool          // Notify: of every class
	Within  time.Duration // Notify: how long they may take to end
	Again   bool          // Notify: only connections that have come since the last Notify
	Reason  string        // a sentence for people
}

// phase is where a [Machine] stands.
type phase uint8

const (
	phaseStopped      phase = iota // it does not run: stopped, suspended, failed, or starting
	phaseActive                    // it runs and nobody wants it stopped
	phaseSoftCordoned              // avoided; a request without a better choice aborts the stop
	phaseNotifying                 // soft-cordoned, and its long connections have been told
	phaseClosing                   // the gate has been asked to close
	// the gate was closed by order while requests were in flight; connections have been told
	phaseDraining
	phaseSuspending // the gate is closed, the driver suspends
	phaseStopping   // the gate is closed, the driver stops
	// the gate is closed and the driver has not answered for too long, or did not know
	phaseStuck
)

var phaseNames = [...]string{
	"stopped", "active", "soft-cordoned", "notifying", "closing", "draining", "suspending", "stopping",
	"stuck",
}

// String returns the phase's name as it stands in the diagram of the package comment.
func (p phase) String() string { return enum.String(phaseNames[:], uint8(p), "phase") }
