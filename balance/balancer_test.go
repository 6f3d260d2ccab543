package balance

import (
	"testing"
	"time"
)

// reentrant is a node with every hook set to the same func, which may call everything that it is
// hooked into.
type reentrant struct {
	f      *Fleet
	b      *Balancer
	now    time.Time
	called map[string]bool
}

// hook has name noted and, the first time, calls everything.
func (x *reentrant) hook(name string) {
	if !x.called[name] {
		x.called[name] = true
		x.everything()
	}
}

func (x *reentrant) everything() {
	x.f.Apply(PutApp{App{ID: "another"}}, RemoveApp{ID: "another"})
	x.f.Edit("web", "m1", func(m *Machine) { m.Addr += "." })
	x.f.Watch().Close()
	x.f.Report(Report{App: "web", ID: "m1"})
	if x.b != nil {
		x.b.Tick(x.now)
		x.b.SetPeers("n", "other")
		x.b.Explain(Request{App: "web"})
		if r, err := x.b.Pick(Request{App: "web", Rand: 1}); err == nil {
			r.Release(OutcomeDone)
		}
		x.b.AcceptGrant(Grant{App: "web", Machine: "m1", Token: 1, Revoked: true})
	}
}

func (x *reentrant) RTT(string) (time.Duration, bool) { x.hook("Distance.RTT"); return 0, false }

func (x *reentrant) Pick(v *View, r Request) (Slot, bool) {
	x.hook("Strategy.Pick")
	return Closest{}.Pick(v, r)
}

// No hook and no interface of a caller is called with a lock held: each may use what it is hooked
// into. If a lock is held, this test hangs instead of failing.
func TestHooksMayCallBack(t *testing.T) {
	x := &reentrant{called: map[string]bool{}, now: time.Unix(1000, 0)}
	var err error
	if x.f, err = NewFleet(FleetConfig{Node: "n", Region: "nrt"}); err != nil {
		t.Fatal(err)
	}
	release := x.f.Keep(Keeper{
		Wanted:  func(AppID, MachineID) { x.hook("Keeper.Wanted") },
		Suspect: func(AppID, MachineID, uint64) { x.hook("Keeper.Suspect") },
	})
	defer release()
	x.f.Apply(PutApp{App{ID: "web"}})
	gate, err := x.f.Host(Machine{ID: "m1", App: "web", Region: "nrt", Limits: Limits{Hard: 1}})
	if err != nil {
		t.Fatal(err)
	}
	x.b, err = New(x.f, Config{
		Strategy: x, Distance: x,
		Trace:    Trace{Picked: func(Explanation) { x.hook("Trace.Picked") }},
		GiveBack: func(NodeID, Grant) { x.hook("Config.GiveBack") },
	})
	if err != nil {
		t.Fatal(err)
	}
	gate.OnLeave(func() { x.hook("Gate.OnLeave") })
	stopped := x.f.OnChange(func(AppID) { x.hook("Fleet.OnChange") })
	token, _ := gate.Start(0)
	gate.Ready(token)
	x.f.Edit("web", "m1", func(*Machine) { x.hook("Fleet.Edit") })
	gate.Suspect(1)

	slot, _ := gate.Grant()
	x.b.AcceptGrant(Grant{App: "web", Machine: "m1", Token: slot, For: time.Minute})
	r, err := x.b.Pick(Request{App: "web", Rand: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := r.GrantToken(); !ok {
		t.Fatal("no slot was granted")
	}
	r.NotSent()
	r.Release(OutcomeError)
	gate.Enter(slot, 0, 0)
	gate.Leave()

	stop, _ := gate.CloseNow()
	gate.Start(1)
	gate.Closed(stop, false)
	for _, hook := range []string{
		"Distance.RTT", "Strategy.Pick", "Trace.Picked", "Config.GiveBack", "Keeper.Wanted",
		"Keeper.Suspect", "Fleet.Edit", "Fleet.OnChange", "Gate.OnLeave",
	} {
		if !x.called[hook] {
			t.Errorf("%s was not called", hook)
		}
	}
	stopped()
	x.called["Fleet.OnChange"] = false
	x.f.Apply(PutApp{App{ID: "third"}})
	if x.called["Fleet.OnChange"] {
		t.Error("Fleet.OnChange was called after it was stopped")
	}
}
