package balancetest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ebbkit/ebb/balance"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// Fleet is a catalogue of machines: [balance.Fleet], or your own with the same guarantees, such as
// one that carries updates between nodes. What Apply has accepted is visible when it returns.
type Fleet interface {
	Apply(...balance.Update) error
	Report(balance.Report) bool
	App(balance.AppID) (*balance.Snapshot, bool)
}

// TestFleet checks that a fleet keeps the rows it should. newFleet returns an empty one each time.
func TestFleet(t *testing.T, newFleet func() Fleet) {
	t.Run("what is older than what is held changes nothing", func(t *testing.T) {
		f := newFleet()
		for _, c := range []struct {
			name string
			do   balance.Update
			want balance.State
		}{
			{"first", row("m", 1, 5, balance.StateStarted), balance.StateStarted},
			{"an older sequence number", row("m", 1, 4, balance.StateStopped), balance.StateStarted},
			{"the same again, with another content", row("m", 1, 5, balance.StateStopped), balance.StateStarted},
			{"a newer one", row("m", 1, 6, balance.StateStopping), balance.StateStopping},
			{"a later incarnation, from its first number", row("m", 2, 1, balance.StateStarted), balance.StateStarted},
			{"the earlier incarnation, however high its number", row("m", 1, 99, balance.StateStopped), balance.StateStarted},
			{"the end of an earlier incarnation", balance.NodeGone{Node: "w", Incarnation: 1}, balance.StateStarted},
			{"the end of this one", balance.NodeGone{Node: "w", Incarnation: 2}, balance.StateGone},
			{"what the ended one had said", row("m", 2, 50, balance.StateStarted), balance.StateGone},
			{"its next incarnation", row("m", 3, 1, balance.StateStarted), balance.StateStarted},
		} {
			if err := f.Apply(c.do); err != nil {
				t.Fatalf("%s: %v; what is old is no error", c.name, err)
			}
			if got := state(f, "m"); got != c.want {
				t.Errorf("%s: %v, want %v", c.name, got, c.want)
			}
		}
	})
	t.Run("a removed machine comes back by a newer row only", func(t *testing.T) {
		f := newFleet()
		must(
			t, f, row("m", 1, 1, balance.StateStarted),
			balance.RemoveMachine{App: app, ID: "m", Version: balance.Version{Incarnation: 1, Seq: 3}},
			row("m", 1, 2, balance.StateStarted),
		)
		if len(rows(f, app)) != 0 {
			t.Error("an older row brought a removed machine back")
		}
		must(
			t, f, row("m", 1, 4, balance.StateStarted),
			balance.RemoveMachine{App: app, ID: "m", Version: balance.Version{Incarnation: 1, Seq: 2}},
		)
		if len(rows(f, app)) != 1 {
			t.Error("a newer row did not bring it back, or an older removal took it")
		}
	})
	t.Run("what makes no sense is refused with an error that names it, and changes nothing", func(t *testing.T) {
		f := newFleet()
		must(t, f, row("m", 1, 1, balance.StateStarted))
		before := rows(f, app)
		bad := func(change func(*balance.Machine)) balance.Update {
			u := row("m", 1, 2, balance.StateStarted)
			change(&u.Machine)
			return u
		}
		for _, c := range []struct {
			u    balance.Update
			want string
		}{
			{bad(func(m *balance.Machine) { m.ID = "" }), "ID"},
			{bad(func(m *balance.Machine) { m.App = "" }), "App"},
			{bad(func(m *balance.Machine) { m.Region = "" }), "Region"},
			{bad(func(m *balance.Machine) { m.Region = "fra" }), "region"},
			{bad(func(m *balance.Machine) { m.Owner = "thief" }), "thief"},
			{bad(func(m *balance.Machine) { m.Limits = balance.Limits{Soft: 3, Hard: 2} }), "soft limit 3"},
			{bad(func(m *balance.Machine) { m.Limits.Hard = -1 }), "hard limit -1"},
			{bad(func(m *balance.Machine) { m.State = 99 }), "99"},
			{balance.PutApp{App: balance.App{ID: app, Min: -1}}, "Min"},
			{balance.RemoveMachine{App: app}, "machine"},
			{nil, "nil"},
		} {
			err := f.Apply(c.u)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%+v: error %v, want one that names %q", c.u, err, c.want)
			}
			if d := cmp.Diff(before, rows(f, app)); d != "" {
				t.Errorf("%+v was refused, and changed something:\n%s", c.u, d)
			}
		}
		if err := f.Apply(row("n", 1, 1, balance.StateStarted), nil, row("o", 1, 1, balance.StateStarted)); err == nil || len(rows(f, app)) != 2 {
			t.Errorf("a bad update between two good ones: %v, %d rows; what stands before it stands, what comes after does not", err, len(rows(f, app)))
		}
	})
	t.Run("order and repetition do not matter once the last row of each machine has come", rapid.MakeCheck(func(t *rapid.T) {
		var us []balance.Update
		last := map[balance.MachineID]uint64{}
		for i := range rapid.IntRange(1, 20).Draw(t, "rows") {
			id := balance.MachineID(fmt.Sprint("m", rapid.IntRange(0, 3).Draw(t, "machine")))
			seq := uint64(i + 1)
			us = append(us, row(id, 1, seq, balance.State(rapid.IntRange(0, 6).Draw(t, "state"))))
			last[id] = seq
		}
		want, got := newFleet(), newFleet()
		for _, u := range us {
			if err := want.Apply(u); err != nil {
				t.Fatal(err)
			}
		}
		late := slices.Clone(us)
		for range rapid.IntRange(0, 5).Draw(t, "repeats") {
			late = append(late, us[rapid.IntRange(0, len(us)-1).Draw(t, "which")])
		}
		late = rapid.Permutation(late).Draw(t, "order")
		for len(late) > 0 { // in calls of any size
			n := rapid.IntRange(1, len(late)).Draw(t, "together")
			if err := got.Apply(late[:n]...); err != nil {
				t.Fatal(err)
			}
			late = late[n:]
		}
		if d := cmp.Diff(rows(want, app), rows(got, app)); d != "" {
			t.Fatalf("in order (-), in disorder (+):\n%s", d)
		}
	}))
	t.Run("a snapshot never changes", func(t *testing.T) {
		f := newFleet()
		must(t, f, row("a", 1, 1, balance.StateStarted), row("b", 1, 1, balance.StateStopped))
		s, _ := f.App(app)
		before := all(s)
		must(
			t, f, row("a", 1, 2, balance.StateStopped), row("c", 1, 1, balance.StateStarted),
			balance.RemoveMachine{App: app, ID: "b", Version: balance.Version{Incarnation: 1, Seq: 2}},
		)
		if d := cmp.Diff(before, all(s)); d != "" {
			t.Errorf("a snapshot changed:\n%s", d)
		}
		if m, ok := s.Machine("b"); !ok || m.State != balance.StateStopped || s.Len() != 2 {
			t.Errorf("a snapshot lost a machine: %+v", m)
		}
	})
	t.Run("apps do not touch each other", func(t *testing.T) {
		f := newFleet()
		other := row("m", 1, 1, balance.StateStarted)
		other.Machine.App = "other"
		must(
			t, f, row("m", 1, 1, balance.StateStarted), other,
			balance.PutApp{App: balance.App{ID: "other", Limits: balance.Limits{Hard: 1}}},
		)
		must(t, f, balance.RemoveApp{ID: "other"})
		if len(rows(f, app)) != 1 || len(rows(f, "other")) != 0 {
			t.Errorf(
				"%d rows of one app and %d of the removed one, want 1 and 0", len(rows(f, app)),
				len(rows(f, "other")),
			)
		}
	})
	t.Run("reports of machines or owners that are not known, and older ones, are dropped", func(t *testing.T) {
		f := newFleet()
		must(t, f, row("m", 2, 1, balance.StateStarted))
		report := func(id balance.MachineID, incarnation, seq uint64) bool {
			return f.Report(balance.Report{App: app, ID: id, Load: balance.Load{InFlight: 1, State: balance.StateStarted, Seq: seq}, Incarnation: incarnation})
		}
		for _, c := range []struct {
			what string
			got  bool
			want bool
		}{
			{"the first", report("m", 2, 5), true}, {"an older one", report("m", 2, 4), false}, {"the same", report("m", 2, 5), false},
			{"a newer one", report("m", 2, 6), true}, {"an earlier incarnation's", report("m", 1, 99), false}, {"one of a stranger", report("x", 2, 7), false},
		} {
			if c.got != c.want {
				t.Errorf("%s: %v, want %v", c.what, c.got, c.want)
			}
		}
	})
}

func row(id balance.MachineID, incarnation, seq uint64, s balance.State) balance.PutMachine {
	return balance.PutMachine{
		Machine: balance.Machine{ID: id, App: app, Region: "nrt", Owner: "w", State: s},
		Version: balance.Version{Incarnation: incarnation, Seq: seq},
	}
}

func must(t *testing.T, f Fleet, us ...balance.Update) {
	t.Helper()
	if err := f.Apply(us...); err != nil {
		t.Fatal(err)
	}
}

func rows(f Fleet, id balance.AppID) []balance.Machine {
	s, ok := f.App(id)
	if !ok {
		return nil
	}
	return all(s)
}

func all(s *balance.Snapshot) (ms []balance.Machine) {
	for m := range s.All() {
		ms = append(ms, *m)
	}
	return ms
}

func state(f Fleet, id balance.MachineID) balance.State {
	s, _ := f.App(app)
	m, _ := s.Machine(id)
	return m.State
}
