package balance

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestStaleUpdatesChangeNothing(t *testing.T) {
	f := newFleet(t, "edge", "nrt")
	at := func(inc, seq uint64, s State) PutMachine {
		return PutMachine{machine("m1", "nrt", s), Version{inc, seq}}
	}
	state := func() State { m, _ := mustApp(t, f).Machine("m1"); return m.State }
	for _, step := range []struct {
		name string
		do   Update
		want State
	}{
		{"first", at(1, 5, StateStarted), StateStarted},
		{"older", at(1, 4, StateStopped), StateStarted},
		{"the same again", at(1, 5, StateStopped), StateStarted},
		{"newer", at(1, 6, StateStopping), StateStopping},
		{"a new incarnation starts its sequence anew", at(2, 1, StateStarted), StateStarted},
		{"the old incarnation is void", at(1, 99, StateStopped), StateStarted},
		{"the node is gone", NodeGone{"w", 2}, StateGone},
		{"what it said before is void", at(2, 50, StateStarted), StateGone},
		{"until it is back", at(3, 1, StateStarted), StateStarted},
	} {
		apply(t, f, step.do)
		if got := state(); got != step.want {
			t.Errorf("%s: %v, want %v", step.name, got, step.want)
		}
	}
}

// Reports that an owner's earlier incarnation made about its machines are ignored, whatever their
// sequence numbers.
func TestReportsOfAnEarlierIncarnationAreVoid(t *testing.T) {
	f := newFleet(t, "edge", "nrt")
	apply(t, f, PutMachine{machine("m1", "nrt", StateStarted), Version{2, 1}})
	for _, c := range []struct {
		incarnation, seq uint64
		want             bool
	}{{1, 50, false}, {2, 10, true}, {1, 99, false}, {3, 11, true}, {0, 12, true}} { // 0 does not say, and is taken
		r := Report{
			App: "web", ID: "m1", Load: Load{InFlight: int(c.seq), State: StateStarted, Seq: c.seq},
			Incarnation: c.incarnation,
		}
		if got := f.Report(r); got != c.want {
			t.Errorf("report %d of incarnation %d: taken %v, want %v", c.seq, c.incarnation, got, c.want)
		}
	}
}

// A reply about an earlier run says nothing about the present one, and does not hide what does.
func TestLoadsOfAnEarlierRunAreVoid(t *testing.T) {
	for _, c := range []struct {
		name string
		next func(Machine) (Machine, Version)
		void bool
	}{
		{"the same run", func(m Machine) (Machine, Version) { return m, Version{1, 2} }, false},
		{"it has been started again", func(m Machine) (Machine, Version) { m.Epoch++; return m, Version{1, 2} }, true},
		{"its owner has been started again", func(m Machine) (Machine, Version) { return m, Version{2, 1} }, true},
	} {
		f := newFleet(t, "edge", "nrt")
		b, err := New(f, Config{})
		if err != nil {
			t.Fatal(err)
		}
		m := machine("m1", "nrt", StateStarted)
		m.Epoch, m.Limits = 5, Limits{Soft: 10}
		apply(t, f, PutMachine{m, Version{1, 1}})
		r, err := b.Pick(Request{App: "web"})
		if err != nil {
			t.Fatal(err)
		}
		row, v := c.next(m)
		apply(t, f, PutMachine{row, v})
		r.Observe(Load{InFlight: 31, Limits: m.Limits, State: StateStarted, Epoch: 5, Seq: 1000})
		var others float64
		for _, k := range b.Loads("web") {
			others = k.Others
		}
		taken := f.Report(
			Report{
				App: "web", ID: "m1", Load: Load{InFlight: 1, State: StateStarted, Epoch: row.Epoch, Seq: 7},
				Incarnation: v.Incarnation,
			},
		)
		if void := others == 0; void != c.void || taken != void {
			t.Errorf("%s: %v others are believed in; a report of the present run is taken: %v", c.name,
				others, taken)
		}
		r.Release(OutcomeDone)
	}
}

func TestRemovedStaysRemoved(t *testing.T) {
	f := newFleet(t, "edge", "nrt")
	m := machine("m1", "nrt", StateStarted)
	apply(
		t, f, PutMachine{m, Version{1, 1}}, RemoveMachine{"web", "m1", Version{1, 3}},
		PutMachine{m, Version{1, 2}},
	)
	if got := rows(f); len(got) != 0 {
		t.Errorf("a late row brought back a removed machine: %v", got)
	}
	apply(t, f, PutMachine{m, Version{1, 4}})
	if got := rows(f); len(got) != 1 {
		t.Errorf("a newer row did not bring it back: %v", got)
	}
	apply(t, f, RemoveMachine{"web", "m1", Version{1, 2}})
	if got := rows(f); len(got) != 1 {
		t.Errorf("an old removal took a newer row: %v", got)
	}
}

// Incarnations belong to each owner: those of a machine's next owner may be smaller.
func TestARemovedMachineMayComeBackAtAnotherOwner(t *testing.T) {
	f := newFleet(t, "edge", "nrt")
	m := machine("m1", "nrt", StateStarted)
	removed := RemoveMachine{"web", "m1", Version{9, 3}}
	apply(t, f, PutMachine{m, Version{9, 1}}, removed, removed)
	m.Owner = "another"
	apply(t, f, PutMachine{m, Version{2, 1}})
	if got := rows(f); len(got) != 1 {
		t.Errorf("a row of another owner was taken for a late one: %v", got)
	}
	apply(t, f, RemoveMachine{"web", "m1", Version{2, 1}}, PutMachine{m, Version{2, 1}})
	if got := rows(f); len(got) != 0 {
		t.Errorf("a late row of that owner brought it back: %v", got)
	}
}

// Any interleaving, duplication and loss of rows ends in what the owner wrote, once the last row of
// each machine has arrived.
func TestFleetConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		owner, err := NewFleet(FleetConfig{Node: "w", Region: "nrt"})
		if err != nil {
			t.Fatal(err)
		}
		w := owner.Watch()
		defer w.Close()
		var sent []Update
		for i := range 3 {
			if _, err := owner.Host(Machine{ID: MachineID(fmt.Sprint("m", i)), App: "web", Region: "nrt"}); err != nil {
				t.Fatal(err)
			}
		}
		for range rapid.IntRange(0, 20).Draw(t, "steps") {
			id := MachineID(fmt.Sprint("m", rapid.IntRange(0, 2).Draw(t, "machine")))
			g := owner.Gate("web", id)
			switch l := g.Load(); l.State {
			case StateStopped:
				g.Start(l.Epoch)
			case StateStarting:
				g.Exited(l.Epoch, true)
			default:
				g.Start(l.Epoch)
			}
			if rapid.Bool().Draw(t, "take") {
				sent = append(sent, w.Take()...)
			}
		}
		sent = append(sent, w.Take()...)
		late := newLate(t, sent)
		got, err := NewFleet(FleetConfig{Node: "edge", Region: "hkg"})
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range late {
			if err := got.Apply(u); err != nil {
				t.Fatal(err)
			}
		}
		if d := cmp.Diff(rows(owner), rows(got)); d != "" {
			t.Fatalf("after %d updates in disorder (-owner +edge):\n%s", len(late), d)
		}
	})
}

// newLate reorders and repeats updates.
func newLate(t *rapid.T, us []Update) []Update {
	late := slices.Clone(us)
	for range rapid.IntRange(0, 5).Draw(t, "repeats") {
		late = append(late, us[rapid.IntRange(0, len(us)-1).Draw(t, "which")])
	}
	return rapid.Permutation(late).Draw(t, "order")
}

func TestHostFollowsItsGate(t *testing.T) {
	f := newFleet(t, "w", "nrt")
	apply(t, f, PutApp{App{ID: "web", Limits: Limits{Soft: 5, Hard: 8}}})
	g, err := f.Host(Machine{ID: "m1", App: "web", Region: "nrt", State: StateStarted, Epoch: 9})
	if err != nil {
		t.Fatal(err)
	}
	row := func() Machine { m, _ := mustApp(t, f).Machine("m1"); return m }
	if m := row(); m.State != StateStopped || m.Owner != "w" || m.Epoch != 0 {
		t.Errorf("hosted row begins as %+v", m)
	}
	if l := g.Load().Limits; l != (Limits{5, 8}) {
		t.Errorf("gate limits %v, want the app's", l)
	}
	start(t, g)
	gen, _ := g.Cordon()
	if m := row(); m.State != StateStarted || m.Cordon != CordonSoft || m.CordonGen != gen ||
		m.Epoch != 1 {
		t.Errorf("row %+v does not follow its gate", m)
	}
	if err := f.Edit("web", "m1", func(m *Machine) { m.Addr, m.State, m.Owner = "127.0.0.1:1", StateFailed, "x" }); err != nil {
		t.Fatal(err)
	}
	if m := row(); m.Addr != "127.0.0.1:1" || m.State != StateStarted || m.Owner != "w" {
		t.Errorf("edited row %+v", m)
	}
	apply(t, f, PutApp{App{ID: "web", Limits: Limits{Soft: 1, Hard: 2}}})
	if l := g.Load().Limits; l != (Limits{1, 2}) {
		t.Errorf("gate limits %v after the app's changed", l)
	}
	if _, err := f.Host(Machine{ID: "m1", App: "web", Region: "nrt"}); err == nil {
		t.Error("hosted twice without an error")
	}
	if err := f.Edit("web", "m2", func(*Machine) {}); err == nil {
		t.Error("edited a machine of somebody else without an error")
	}
}

func TestWatchConflates(t *testing.T) {
	f := newFleet(t, "edge", "nrt")
	apply(t, f, PutApp{App{ID: "web"}}, PutMachine{machine("m0", "nrt", StateStopped), Version{1, 1}})
	w := f.Watch()
	defer w.Close()
	if us := w.Take(); len(us) != 2 {
		t.Errorf("a watch begins with %d updates, want the app and the machine", len(us))
	}
	for seq := uint64(2); seq < 100; seq++ {
		apply(t, f, PutMachine{machine("m0", "nrt", State(seq%3)), Version{1, seq}})
	}
	<-w.C()
	want := []Update{PutMachine{machine("m0", "nrt", State(99%3)), Version{1, 99}}}
	if d := cmp.Diff(want, w.Take()); d != "" {
		t.Errorf("98 changes of one row (-want +got):\n%s", d)
	}
}

func TestBadInputIsNamed(t *testing.T) {
	f := newFleet(t, "edge", "nrt")
	apply(t, f, PutMachine{machine("m0", "nrt", StateStarted), Version{1, 1}})
	moved := machine("m0", "hkg", StateStarted)
	stolen := machine("m0", "nrt", StateStarted)
	stolen.Owner = "thief"
	for _, c := range []struct {
		u    Update
		want string
	}{
		{PutMachine{Machine{App: "web", Region: "nrt"}, Version{1, 2}}, "Machine.ID"},
		{PutMachine{Machine{ID: "m", Region: "nrt"}, Version{1, 2}}, "Machine.App"},
		{PutMachine{Machine{ID: "m", App: "web"}, Version{1, 2}}, "Machine.Region"},
		{PutMachine{Machine{ID: "m", App: "web", Region: "nrt", Limits: Limits{Soft: 9, Hard: 3}}, Version{1, 2}}, "soft limit 9 above hard limit 3"},
		{PutMachine{Machine{ID: "m", App: "web", Region: "nrt", Limits: Limits{Hard: -1}}, Version{1, 2}}, "hard limit -1"},
		{PutMachine{moved, Version{1, 2}}, "keeps its region"},
		{PutMachine{stolen, Version{1, 2}}, "keeps its owner"},
		{PutApp{App{}}, "App.ID"},
		{PutApp{App{ID: "web", Min: 3, Max: 2}}, "Min 3"},
		{PutApp{App{ID: "web", KeepAlive: -time.Second}}, "KeepAlive -1s"},
		{PutApp{App{ID: "web", AbandonedHold: -1}}, "AbandonedHold"},
		{PutApp{App{ID: "web", Limits: Limits{Soft: 1 << 20}}}, "soft limit 1048576"},
		{RemoveApp{}, "RemoveApp.ID"},
		{RemoveMachine{ID: "m"}, "RemoveMachine"},
		{NodeGone{}, "NodeGone.Node"},
	} {
		if err := f.Apply(c.u); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: error %v, want one that names %q", c.u, err, c.want)
		}
	}
	if _, err := NewFleet(FleetConfig{Region: "nrt"}); err == nil {
		t.Error("a fleet without a node")
	}
	if _, err := New(nil, Config{}); err == nil {
		t.Error("a balancer without a fleet")
	}
}

func TestPickErrorsSayWhy(t *testing.T) {
	f := newFleet(t, "edge", "nrt")
	b, err := New(f, Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Pick(Request{App: "web"}); !errors.Is(err, ErrNoApp) {
		t.Errorf("unknown app: %v", err)
	}
	hard := machine("m3", "nrt", StateStarted)
	hard.Cordon = CordonHard
	apply(t, f, PutApp{App{ID: "web", Limits: Limits{Hard: 1}}},
		PutMachine{machine("m0", "nrt", StateStarted), Version{1, 1}}, PutMachine{machine("m1", "nrt", StateStarting), Version{1, 1}},
		PutMachine{machine("m2", "nrt", StateSuspended), Version{1, 1}}, PutMachine{hard, Version{1, 1}}, PutMachine{machine("m4", "nrt", StateStarted), Version{1, 1}})
	res, err := b.Pick(Request{App: "web"})
	if err != nil {
		t.Fatal(err)
	}
	defer res.Release(OutcomeDone)
	other := MachineID("m4")
	if res.Machine().ID == other {
		other = "m0"
	}
	_, err = b.Pick(Request{App: "web", Tried: []MachineID{other}})
	want := &NoMachineError{
		App: "web", Seen: 5, Excluded: 1, Stopped: 1, Starting: 1, Cordoned: 1, Full: 1,
		After: 100 * time.Millisecond,
	}
	var got *NoMachineError
	if !errors.As(err, &got) || !errors.Is(err, ErrFull) || !errors.Is(err, ErrNoMachine) {
		t.Fatalf("%v: want ErrFull and ErrNoMachine", err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func FuzzApply(f *testing.F) {
	f.Add("m", "web", "nrt", "w", uint8(2), 5, 9, uint64(1), uint64(1))
	f.Fuzz(
		func(t *testing.T, id, app, region, owner string, state uint8, soft, hard int, inc, seq uint64) {
			fl := newFleet(t, "edge", "nrt")
			b, _ := New(fl, Config{})
			m := Machine{
				ID: MachineID(id), App: AppID(app), Region: region, Owner: NodeID(owner), State: State(state),
				Limits: Limits{Soft: soft, Hard: hard},
			}
			if err := fl.Apply(PutMachine{m, Version{inc, seq}}); err != nil {
				return
			}
			res, err := b.Pick(Request{App: m.App})
			if (err == nil) != (m.State == StateStarted && inc > 0) {
				t.Fatalf("%+v version %d.%d: pick says %v", m, inc, seq, err)
			}
			if err == nil {
				res.Release(OutcomeDone)
			}
		},
	)
}

// Remains of a removed app do not bring it back: its gates' transitions, reports, releases and
// ticks.
func TestRemovedAppStaysAway(t *testing.T) {
	f := newFleet(t, "w", "nrt")
	b, err := New(f, Config{})
	if err != nil {
		t.Fatal(err)
	}
	g, err := f.Host(Machine{ID: "m", App: "web", Region: "nrt"})
	if err != nil {
		t.Fatal(err)
	}
	start(t, g)
	r, err := b.Pick(Request{App: "web"})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Apply(RemoveApp{"web"}); !errors.Is(err, ErrRuns) ||
		!strings.Contains(err.Error(), `machine "m" of app "web" is started`) {
		t.Errorf("removal of an app whose machine runs: %v", err)
	}
	if err := f.Apply(RemoveMachine{App: "web", ID: "m"}); !errors.Is(err, ErrRuns) {
		t.Errorf("removal of a machine that runs: %v", err)
	}
	g.Exited(1, false)
	apply(t, f, RemoveApp{"web"})
	if _, a := g.Start(1); a != StartRefused {
		t.Errorf("a start of a machine that was removed: %v", a)
	}
	r.Observe(Load{InFlight: 1, State: StateStarted, Seq: 1})
	r.Release(OutcomeError)
	b.Tick(time.Unix(0, 0))
	if _, ok := f.App("web"); ok || f.Report(Report{App: "web", ID: "m"}) ||
		f.Gate("web", "m") != nil {
		t.Error("a removed app is back")
	}
	if _, err := b.Pick(Request{App: "web"}); !errors.Is(err, ErrNoApp) {
		t.Errorf("pick of a removed app: %v", err)
	}
	if len(f.Apps()) != 0 {
		t.Errorf("apps %v", f.Apps())
	}
}

// If another edit has changed the row meanwhile, an edit is made again on the new row: no edit is
// lost.
func TestAnEditIsMadeOverThePresentRow(t *testing.T) {
	f, err := NewFleet(FleetConfig{Node: "n", Region: "nrt"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Host(Machine{ID: "m1", App: "web", Region: "nrt"}); err != nil {
		t.Fatal(err)
	}
	calls := 0
	err = f.Edit("web", "m1", func(m *Machine) {
		if calls++; calls == 1 {
			f.Edit("web", "m1", func(m *Machine) { m.Fault = "overtook" })
		}
		m.Addr += "x"
	})
	s, _ := f.App("web")
	if m, _ := s.Machine("m1"); err != nil || calls != 2 || m.Addr != "x" || m.Fault != "overtook" {
		t.Errorf(
			"%v; %d calls, and the row has the address %q and the fault %q", err, calls, m.Addr, m.Fault,
		)
	}
}
