package balance

import "fmt"

// Version orders what one node says about one thing: a later incarnation beats an earlier one, then the sequence number.
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

// Update is one change of the catalogue: [PutApp], [RemoveApp], [PutMachine], [RemoveMachine] or [NodeGone].
type Update interface{ check() error }

// PutApp adds an app or replaces its settings.
type PutApp struct{ App App }

// RemoveApp takes an app and all its machines out. Where one that this node owns runs, it is
// refused with a [*RunsError].
type RemoveApp struct{ ID AppID }

// PutMachine is a row as its owner wrote it. A row that is not newer than the one held changes nothing. The app need not
// be known yet.
type PutMachine struct {
	Machine Machine
	Version Version
}

// RemoveMachine takes a machine out, unless a newer row is held. For a machine that this node owns
// no Version is needed; while it runs it is refused with a [*RunsError].
type RemoveMachine struct {
	App     AppID
	ID      MachineID
	Version Version
}

// NodeGone says that a node of that incarnation has ended: the machines it owns are [Gone] until a
// later incarnation speaks of them.
type NodeGone struct {
	Node        NodeID
	Incarnation uint64
}

func (u PutApp) check() error     { return u.App.Validate() }
func (u PutMachine) check() error { return u.Machine.validate() }
func (u RemoveApp) check() error {
	if u.ID == "" {
		return fmt.Errorf("balance: RemoveApp without an ID: set RemoveApp.ID")
	}
	return nil
}
func (u RemoveMachine) check() error {
	if u.ID == "" || u.App == "" {
		return fmt.Errorf("balance: RemoveMachine of machine %q of app %q: both have to be set", u.ID, u.App)
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
	Idle    int
	Version Version // only its incarnation counts; reports are ordered by Load.Seq
}
