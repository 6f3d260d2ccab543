package balance

import "fmt"

// MachineID names a machine of an app; two apps may each have a machine of the same ID. See [MachineKey].
type MachineID string

// NodeID names a node: a process that runs this library.
type NodeID string

// AppID names an app: the unit that is balanced and scaled.
type AppID string

// MachineKey is a machine's identity in a fleet: whatever is kept by machine over more than one app is kept by it.
type MachineKey struct {
	App AppID
	ID  MachineID
}

// String returns "app/id", for people.
func (k MachineKey) String() string { return string(k.App) + "/" + string(k.ID) }

// State is where a machine is in its life. The owner's [Gate] holds the truth; a row carries a late copy.
type State uint8

// The states. Only Started admits requests. Stopped, Suspended and Failed can be started. Gone is
// no state of a gate: the node that owns the machine has ended, see [NodeGone], so that nothing can
// be done with it until that node speaks of it again.
const (
	Stopped State = iota
	Starting
	Started
	Stopping
	Suspending
	Suspended
	Failed
	Gone
)

var stateNames = [...]string{"stopped", "starting", "started", "stopping", "suspending", "suspended", "failed", "gone"}

// String returns the state's name as it stands in logs and JSON.
func (s State) String() string { return name(stateNames[:], uint8(s), "state") }

// Startable reports whether a start command can do something for a machine in this state.
func (s State) Startable() bool { return s == Stopped || s == Suspended || s == Failed }

// Health is what the owner's last health checks said.
type Health uint8

// The health values. Unknown counts as passing: no check is configured, or none has ended yet.
const (
	HealthUnknown Health = iota
	Passing
	Failing
)

var healthNames = [...]string{"unknown", "passing", "failing"}

// String returns the health's name as it stands in logs and JSON.
func (h Health) String() string { return name(healthNames[:], uint8(h), "health") }

// Cordon says how far traffic stays away from a machine.
type Cordon uint8

// The cordons. A soft-cordoned machine is used when nothing better is left; a hard-cordoned one never.
const (
	CordonNone Cordon = iota
	CordonSoft
	CordonHard
)

var cordonNames = [...]string{"none", "soft", "hard"}

// String returns the cordon's name as it stands in logs and JSON.
func (c Cordon) String() string { return name(cordonNames[:], uint8(c), "cordon") }

func name(names []string, i uint8, kind string) string {
	if int(i) < len(names) {
		return names[i]
	}
	return fmt.Sprintf("%s(%d)", kind, i)
}

// MaxLimit is the largest soft or hard limit, and the largest number in flight a [Gate] counts.
const MaxLimit = 1<<20 - 1

// Limits are a machine's load limits, in requests in flight. They are static; at or above a limit it is in force.
type Limits struct {
	Soft int // at or above it other machines are preferred and another is started; 0 means none
	Hard int // at or above it nothing is admitted; 0 means none
}

func (l Limits) validate() error {
	switch {
	case l.Soft < 0 || l.Soft > MaxLimit:
		return fmt.Errorf("soft limit %d: want 0 (none) to %d", l.Soft, MaxLimit)
	case l.Hard < 0 || l.Hard > MaxLimit:
		return fmt.Errorf("hard limit %d: want 0 (none) to %d", l.Hard, MaxLimit)
	case l.Hard > 0 && l.Soft > l.Hard:
		return fmt.Errorf("soft limit %d above hard limit %d: lower the soft one or raise the hard one", l.Soft, l.Hard)
	}
	return nil
}

// Machine is one instance of an app: a row, as its owner last wrote it. It is a value; live load is read through a
// [View] or a [Gate], never from here.
type Machine struct {
	ID       MachineID // unique among the app's machines
	App      AppID
	Region   string
	Owner    NodeID // the worker that hosts it: the single writer of this row and the only one that admits work to it
	Addr     string // host:port where the machine listens; it means something to its owner only, and may change with each start
	Revision string // what it runs; empty when the app has no revisions
	Limits   Limits

	State  State
	Health Health
	// Recent says that the machine is young enough for failing checks to mean "coming" rather than
	// "broken". The owner sets and clears it, so that no reader needs the owner's clock. Of a
	// machine that starts, and whose checks have not passed, it says that the boot has not begun: the
	// owner waits for its turn, or for a driver that has asked to be called later.
	Recent bool
	// Doubtful says of a machine that starts that its owner does not expect it to become ready: it
	// does nothing, or listens elsewhere, and Fault says so. It may come up all the same.
	Doubtful  bool
	Cordon    Cordon
	CordonGen uint64 // counts the machine's cordons; requests carry the generation their node had seen
	Epoch     uint64 // counts the machine's starts and resumes; 0 means never started
	// Fault says in a sentence why the machine's last start or run failed, or what a start lacks
	// that takes long; empty when there is nothing to say. It is for people.
	Fault string
}

// Key returns the machine's identity.
func (m Machine) Key() MachineKey { return MachineKey{m.App, m.ID} }

func (m Machine) validate() error {
	switch {
	case m.ID == "":
		return fmt.Errorf("balance: machine without an ID (app %q, region %q): set Machine.ID", m.App, m.Region)
	case m.App == "":
		return fmt.Errorf("balance: machine %q has no app: set Machine.App", m.ID)
	case m.Region == "":
		return fmt.Errorf("balance: machine %q has no region: set Machine.Region", m.ID)
	case m.State > Gone:
		return fmt.Errorf("balance: machine %q: %v is no state", m.ID, m.State)
	case m.Health > Failing:
		return fmt.Errorf("balance: machine %q: %v is no health", m.ID, m.Health)
	case m.Cordon > CordonHard:
		return fmt.Errorf("balance: machine %q: %v is no cordon", m.ID, m.Cordon)
	}
	if err := m.Limits.validate(); err != nil {
		return fmt.Errorf("balance: machine %q: %w", m.ID, err)
	}
	return nil
}
