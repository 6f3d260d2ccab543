package balance

import (
	"fmt"

	"github.com/ebbkit/ebb/internal/enum"
)

// Version orders what one node says about one thing: a later incarnation beats an earlier one, then
// the sequence number.
type Version struct {
	Incarnation uint64 // of the writing node, from 1: grows with each of its starts
	Seq         uint64 // grows with each write
}

func (v Version) after(w Version) bool {
	if v.Incarnation != w.Incarnation {
		return v.Incarnation > w.Incarnation
	}
	return v.Seq > w.Seq
}

// Update is one change of the catalogue: [PutApp], [RemoveApp], [PutMachine], [RemoveMachine] or
// [NodeGone].
type Update interface{ check() error }

// PutApp adds an app or replaces its settings.
type PutApp struct{ App App }

// RemoveApp takes an app and all its machines out. Where one that this node owns runs, it is
// refused with [ErrRuns].
type RemoveApp struct{ ID AppID }

// PutMachine is a row as its owner wrote it. A row that is not newer than the one held changes
// nothing. The app need not be known yet.
type PutMachine struct {
	Machine Machine
	Version Version
}

// RemoveMachine takes a machine out, unless a newer row is held. For a machine that this node owns
// no Version is needed; while it runs it is refused with [ErrRuns].
type RemoveMachine struct {
	App     AppID
	ID      MachineID
	Version Version
}

// NodeGone says that a node of that incarnation has ended: the machines it owns are [StateGone]
// until a later incarnation speaks of them.
type NodeGone struct {
	Node        NodeID
	Incarnation uint64
}

func (u PutApp) check() error { return u.App.validate() }

func (u PutMachine) check() error { return u.Machine.validate() }

func (u RemoveApp) check() error {
	if u.ID == "" {
		return fmt.Errorf("balance: RemoveApp without an ID: set RemoveApp.ID")
	}
	return nil
}

func (u RemoveMachine) check() error {
	if u.ID == "" || u.App == "" {
		return fmt.Errorf(
			"balance: RemoveMachine of machine %q of app %q: both have to be set", u.ID, u.App,
		)
	}
	return nil
}

func (u NodeGone) check() error {
	if u.Node == "" {
		return fmt.Errorf("balance: NodeGone without a node: set NodeGone.Node")
	}
	return nil
}

// Report is a load report: what an owner says of one machine without being asked.
type Report struct {
	App     AppID
	ID      MachineID
	Load    Load
	Granted int // of Load.InFlight, as [Gate.Granted] says; 0 where the owner grants no slots
	// of Load.InFlight, long connections without data for App.IdleAfter; no load to whoever decides
	// what sleeps
	Idle int
	// of the machine's owner; reports are ordered by it and Load.Seq. 0 means whatever is known
	Incarnation uint64
}

// Load is what the owner says of a machine in every reply, bounce and report. It was exact when it
// was written.
type Load struct {
	InFlight  int    // requests in flight, including the one that the reply answers, and slots granted
	Limits    Limits // as the gate enforces them
	State     State
	Cordon    Cordon
	CordonGen uint64
	Epoch     uint64
	Seq       uint64 // grows with every Load of one gate, so that older ones can be dropped
}

// Bounce is an owner's refusal of one try. A bounced request has not been executed.
type Bounce uint8

// The bounces. BounceNone says that the request was admitted.
const (
	BounceNone       Bounce = iota
	BounceFull              // at the hard limit
	BounceClosing           // on its way to sleep: do not come back before it has started again
	BounceNotStarted        // stopped, starting, suspended or failed
	BounceNotHere           // this node does not own the machine
	BounceWrongEpoch        // the machine has been started again since the caller last heard of it
)

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

// StartAnswer is what came of a start command.
type StartAnswer uint8

// The answers. None of them is an error: views are late, and a start is wanted, not a particular
// transition.
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
