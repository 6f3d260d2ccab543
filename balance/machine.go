package balance

import (
	"cmp"
	"fmt"

	"github.com/cespare/xxhash/v2"
	"github.com/ebbkit/ebb/balance/internal/granting"
	"github.com/ebbkit/ebb/internal/enum"
)

// MachineID names a machine of an app; two apps may each have a machine of the same ID. See
// [MachineKey].
type MachineID string

// NodeID names a node: a process that runs this library.
type NodeID string

// AppID names an app: the unit that is balanced and scaled.
type AppID string

// MachineKey is a machine's identity in a fleet: use it as the key of what is kept for the machines
// of several apps.
type MachineKey struct {
	App AppID
	ID  MachineID
}

// String returns "app/id", for people.
func (k MachineKey) String() string { return string(k.App) + "/" + string(k.ID) }

// State is a machine's state. The owner's [Gate] holds it; a row carries a late copy.
type State uint8

// The states. Only StateStarted admits requests. StateStopped, StateSuspended and StateFailed can
// be started. StateGone is not a state of a gate: the node that owns the machine has ended, see
// [NodeGone], so nobody can start or stop the machine until that node reports it again.
const (
	StateStopped State = iota
	StateStarting
	StateStarted
	StateStopping
	StateSuspending
	StateSuspended
	StateFailed
	StateGone
)

var stateNames = [...]string{
	"stopped", "starting", "started", "stopping", "suspending", "suspended", "failed", "gone",
}

// String returns the state's name as it stands in logs and JSON.
func (s State) String() string { return enum.String(stateNames[:], uint8(s), "state") }

// Startable reports whether a start command can do something for a machine in this state.
func (s State) Startable() bool { return s == StateStopped || s == StateSuspended || s == StateFailed }

// Health is the result of the owner's last health checks.
type Health uint8

// The health values. HealthUnknown counts as passing: no check is configured, or none has finished
// yet.
const (
	HealthUnknown Health = iota
	HealthPassing
	HealthFailing
)

var healthNames = [...]string{"unknown", "passing", "failing"}

// String returns the health's name as it stands in logs and JSON.
func (h Health) String() string { return enum.String(healthNames[:], uint8(h), "health") }

// Cordon says how far traffic is kept away from a machine.
type Cordon uint8

// The cordons. A soft-cordoned machine is used only when nothing better is left; a hard-cordoned
// one never.
const (
	CordonNone Cordon = iota
	CordonSoft
	CordonHard
)

var cordonNames = [...]string{"none", "soft", "hard"}

// String returns the cordon's name as it stands in logs and JSON.
func (c Cordon) String() string { return enum.String(cordonNames[:], uint8(c), "cordon") }

// MaxLimit is the largest soft or hard limit, and the largest number in flight a [Gate] counts.
const MaxLimit = 1<<20 - 1

// Limits are a machine's load limits, in requests in flight. A limit takes effect at or above it.
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
		return fmt.Errorf(
			"soft limit %d above hard limit %d: lower the soft one or raise the hard one", l.Soft, l.Hard,
		)
	}
	return nil
}

// Granted reports whether these are the limits of a machine that takes 1 to 3 requests at a time:
// its slots are granted, if its owner grants any. See package balance/grants.
func (l Limits) Granted() bool { return l.Hard > 0 && l.Hard <= granting.FewSlots }

// Machine is one instance of an app: a row, as its owner last wrote it. It is a value; live load is
// read through a [View] or a [Gate], never from here.
type Machine struct {
	ID     MachineID // unique among the app's machines
	App    AppID
	Region string
	// the worker that hosts it: the single writer of this row and the only one that admits work to it
	Owner NodeID
	// host:port where the machine listens; only its owner dials it, and it may change with each start
	Addr     string
	Revision string // what it runs; empty when the app has no revisions
	Limits   Limits

	State  State
	Health Health
	// Recent says that the machine is young enough for failing checks to mean "coming" rather than
	// "broken". The owner sets and clears it, so that no reader needs the owner's clock. For a
	// machine that is starting, and whose checks have not passed, it says that the boot has not
	// begun: the owner waits for its turn, or for a driver that has asked for a later retry.
	Recent bool
	// Doubtful says that the owner does not expect a starting machine to become ready, because it
	// does nothing or listens elsewhere; Fault says so. It may still come up.
	Doubtful  bool
	Cordon    Cordon
	CordonGen uint64 // counts the machine's cordons; requests carry the generation their node had seen
	Epoch     uint64 // counts the machine's starts and resumes; 0 means never started
	// Fault says in a sentence, for people, why the machine's last start or run failed, or what a
	// slow start is waiting for; empty when there is nothing to say.
	Fault string
}

// Key returns the machine's identity.
func (m Machine) Key() MachineKey { return MachineKey{m.App, m.ID} }

func (m Machine) validate() error {
	switch {
	case m.ID == "":
		return fmt.Errorf(
			"balance: machine without an ID (app %q, region %q): set Machine.ID", m.App, m.Region,
		)
	case m.App == "":
		return fmt.Errorf("balance: machine %q has no app: set Machine.App", m.ID)
	case m.Region == "":
		return fmt.Errorf("balance: machine %q has no region: set Machine.Region", m.ID)
	case m.State > StateGone:
		return fmt.Errorf("balance: machine %q: %v is no state", m.ID, m.State)
	case m.Health > HealthFailing:
		return fmt.Errorf("balance: machine %q: %v is no health", m.ID, m.Health)
	case m.Cordon > CordonHard:
		return fmt.Errorf("balance: machine %q: %v is no cordon", m.ID, m.Cordon)
	}
	if err := m.Limits.validate(); err != nil {
		return fmt.Errorf("balance: machine %q: %w", m.ID, err)
	}
	return nil
}

// MarshalText returns the state's name; a value without one is an error.
func (s State) MarshalText() ([]byte, error) {
	return enum.Marshal("balance: state", stateNames[:], uint8(s))
}

// UnmarshalText is the inverse of [State.MarshalText]; the error lists the names.
func (s *State) UnmarshalText(text []byte) error {
	return enum.Unmarshal(s, "balance: state", stateNames[:], text)
}

// MarshalText returns the health's name; a value without one is an error.
func (h Health) MarshalText() ([]byte, error) {
	return enum.Marshal("balance: health", healthNames[:], uint8(h))
}

// UnmarshalText is the inverse of [Health.MarshalText]; the error lists the names.
func (h *Health) UnmarshalText(text []byte) error {
	return enum.Unmarshal(h, "balance: health", healthNames[:], text)
}

// MarshalText returns the cordon's name; a value without one is an error.
func (c Cordon) MarshalText() ([]byte, error) {
	return enum.Marshal("balance: cordon", cordonNames[:], uint8(c))
}

// UnmarshalText is the inverse of [Cordon.MarshalText]; the error lists the names.
func (c *Cordon) UnmarshalText(text []byte) error {
	return enum.Unmarshal(c, "balance: cordon", cordonNames[:], text)
}

// Tier orders machines by how well they can be used; a pick takes the first tier that has one with
// room.
type Tier uint8

// The tiers, best first. Hard limits hold in each of them.
const (
	TierReady    Tier = iota // started, not cordoned, not failing
	TierCordoned             // soft-cordoned
	TierComing               // recently started, checks still failing
	// checks failing, or ejected as an outlier: only when there is nothing else
	TierFailing
	TierNone // cannot be used: not started, or hard-cordoned
)

// tiers is the number of tiers that can be used.
const tiers = TierNone

var tierNames = [...]string{"ready", "cordoned", "coming", "failing", "none"}

// String returns the tier's name as it stands in logs and JSON.
func (t Tier) String() string { return enum.String(tierNames[:], uint8(t), "tier") }

func tierOf(s State, c Cordon, h Health, recent bool) Tier {
	switch {
	case s != StateStarted || c == CordonHard:
		return TierNone
	case h == HealthFailing && recent:
		return TierComing
	case h == HealthFailing:
		return TierFailing
	case c == CordonSoft:
		return TierCordoned
	}
	return TierReady
}

// MarshalText returns the tier's name; a value without one is an error.
func (t Tier) MarshalText() ([]byte, error) {
	return enum.Marshal("balance: tier", tierNames[:], uint8(t))
}

// UnmarshalText is the inverse of [Tier.MarshalText]; the error lists the names.
func (t *Tier) UnmarshalText(text []byte) error {
	return enum.Unmarshal(t, "balance: tier", tierNames[:], text)
}

// Rank is the machine's place in the canonical order of its app: rendezvous hashing over app and
// ID, so that nodes agree on it without talking to each other, and a machine that comes or goes
// moves no other. Machines are started from the front of the order and stopped from its back.
func (k MachineKey) Rank() uint64 { return hash2(string(k.App), string(k.ID)) }

// Compare orders machines of one app canonically: by [MachineKey.Rank], then by ID.
func (m *Machine) Compare(o *Machine) int {
	return cmp.Or(cmp.Compare(m.Key().Rank(), o.Key().Rank()), cmp.Compare(m.ID, o.ID))
}

// hash2 hashes the two strings with a separator, so that different pairs are different inputs.
func hash2(a, b string) uint64 {
	var d xxhash.Digest
	d.Reset()
	d.WriteString(a)
	d.Write([]byte{0})
	d.WriteString(b)
	return d.Sum64()
}

// mix combines two hashes; it is the finalizer of MurmurHash3.
func mix(a, b uint64) uint64 {
	h := a ^ b*0x9e3779b97f4a7c15
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// Load is what the owner says about a machine in every reply, bounce and report. It was exact when
// it was written.
type Load struct {
	InFlight  int    // requests in flight, including the one that the reply answers, and slots granted
	Limits    Limits // as the gate enforces them
	State     State
	Cordon    Cordon
	CordonGen uint64
	Epoch     uint64
	Seq       uint64 // grows with every Load of one gate, so that older ones can be dropped
}

// The bounces. BounceNone says that the request was admitted.
const (
	BounceNone       Bounce = iota
	BounceFull              // at the hard limit
	BounceClosing           // stopping: do not retry before it has started again
	BounceNotStarted        // stopped, starting, suspended or failed
	BounceNotHere           // this node does not own the machine
	BounceWrongEpoch        // the machine has been restarted since the caller last heard of it
)

// Bounce is an owner's refusal of one try. A bounced request has not been executed.
type Bounce uint8

var bounceNames = [...]string{"admitted", "full", "closing", "stopped", "not-here", "wrong-epoch"}

// String returns the bounce's name as it travels between nodes.
func (b Bounce) String() string { return enum.String(bounceNames[:], uint8(b), "bounce") }

// MarshalText returns the bounce's name; a value without one is an error.
func (b Bounce) MarshalText() ([]byte, error) {
	return enum.Marshal("balance: bounce", bounceNames[:], uint8(b))
}

// UnmarshalText is the inverse of [Bounce.MarshalText]; the error lists the names.
func (b *Bounce) UnmarshalText(text []byte) error {
	return enum.Unmarshal(b, "balance: bounce", bounceNames[:], text)
}

// StartAnswer is the result of a start command.
type StartAnswer uint8

// The answers. None of them is an error: views are late, and the caller wants a start, not a
// particular transition.
const (
	// the machine ran and ended since the caller looked, or is being stopped and nobody starts it
	// then: look again
	StartRefused    StartAnswer = iota
	StartAccepted               // starting now, under a new epoch
	StartUnderway               // already starting
	StartRunning                // already started
	StartRemembered             // being stopped; it starts again when that is over
)

var startAnswerNames = [...]string{
	"refused", "accepted", "already starting", "already started", "remembered",
}

// String returns the answer in words.
func (a StartAnswer) String() string { return enum.String(startAnswerNames[:], uint8(a), "answer") }

// MarshalText returns the answer's name; a value without one is an error.
func (a StartAnswer) MarshalText() ([]byte, error) {
	return enum.Marshal("balance: answer", startAnswerNames[:], uint8(a))
}

// UnmarshalText is the inverse of [StartAnswer.MarshalText]; the error lists the names.
func (a *StartAnswer) UnmarshalText(text []byte) error {
	return enum.Unmarshal(a, "balance: answer", startAnswerNames[:], text)
}
