package machine_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/balance"
)

// obliging is a driver whose machines boot at once and end when the test says so.
type obliging struct{ exited func(machine.Exit) }

func (*obliging) Start(context.Context, balance.Machine) (machine.Booting, error) {
	return machine.Booting{Addr: "m0.web:80"}, nil
}
func (*obliging) Stop(context.Context, balance.Machine) error    { return nil }
func (*obliging) Suspend(context.Context, balance.Machine) error { return nil }
func (o *obliging) Watch(ctx context.Context, exited func(machine.Exit)) error {
	o.exited = exited
	<-ctx.Done()
	return nil
}

// shareID returns the owner of two apps whose machines have the same ID.
func shareID(t *testing.T, c machine.Config) (*balance.Fleet, *machine.Starter, *obliging) {
	f, err := balance.NewFleet(balance.FleetConfig{Node: "n", Region: "nrt"})
	if err != nil {
		t.Fatal(err)
	}
	for _, app := range []balance.AppID{"a", "b"} {
		if _, err := f.Host(balance.Machine{ID: "m1", App: app, Region: "nrt"}); err != nil {
			t.Fatal(err)
		}
	}
	d := &obliging{}
	s, err := machine.NewStarter(f, d, c)
	if err != nil {
		t.Fatal(err)
	}
	go s.Run(t.Context())
	synctest.Wait()
	return f, s, d
}

func rowOf(t *testing.T, f *balance.Fleet, app balance.AppID) balance.Machine {
	t.Helper()
	s, _ := f.App(app)
	m, ok := s.Machine("m1")
	if !ok {
		t.Fatalf("app %s has lost its machine", app)
	}
	return m
}

func startBoth(t *testing.T, f *balance.Fleet, s *machine.Starter) {
	t.Helper()
	for _, app := range []balance.AppID{"a", "b"} {
		if answer, err := s.Start(t.Context(), rowOf(t, f, app)); err != nil ||
			answer != balance.StartAccepted {
			t.Fatal(answer, err)
		}
		synctest.Wait()
	}
}

// A machine is identified by its app and its ID: an exit ends the machine that the driver names,
// and another app's machine of the same ID goes on.
func TestAnExitIsOfOneAppsMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s, d := shareID(
			t,
			machine.Config{
				Check: machine.Check{Func: func(context.Context, balance.Machine) error { return nil }},
			},
		)
		startBoth(t, f, s)
		for _, app := range []balance.AppID{"a", "b"} {
			d.exited(machine.Exit{App: app, ID: "m1", Epoch: 1, Code: 1, Reason: "crash of " + string(app)})
			synctest.Wait()
			if m := rowOf(t, f, app); m.State != balance.StateFailed || m.Fault != "crash of "+string(app) {
				t.Errorf("%v is %v (%q) after its crash", m.Key(), m.State, m.Fault)
			}
			if app == "a" {
				if m := rowOf(t, f, "b"); m.State != balance.StateStarted {
					t.Errorf("%v is %v (%q) after the crash of a/m1", m.Key(), m.State, m.Fault)
				}
			}
		}
	})
}

// A start that a gate remembers is carried out for the machine that was stopped.
func TestARememberedStartIsOfOneAppsMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s, _ := shareID(
			t,
			machine.Config{
				Check: machine.Check{Func: func(context.Context, balance.Machine) error { return nil }},
			},
		)
		startBoth(t, f, s)
		g := f.Gate("b", "m1")
		token, _ := g.CloseNow()
		if answer, err := s.Start(t.Context(), rowOf(t, f, "b")); err != nil ||
			answer != balance.StartRemembered {
			t.Fatal(answer, err)
		}
		g.Closed(token, false)
		synctest.Wait()
		if a, b := rowOf(t, f, "a"), rowOf(t, f, "b"); a.Epoch != 1 || b.Epoch != 2 ||
			b.State != balance.StateStarted {
			t.Errorf(
				"%v at epoch %d, %v at epoch %d (%v): want 1, and 2 started", a.Key(), a.Epoch, b.Key(),
				b.Epoch, b.State,
			)
		}
	})
}

// A report to Push about one app's machine does not make another app's ready.
func TestAWordIsOfOneAppsMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p machine.Push
		f, s, _ := shareID(t, machine.Config{Readiness: &p})
		startBoth(t, f, s)
		p.Ready("a", "m1", 1)
		time.Sleep(time.Second)
		synctest.Wait()
		if a, b := rowOf(t, f, "a").State, rowOf(t, f, "b").State; a != balance.StateStarted ||
			b != balance.StateStarting {
			t.Errorf("a/m1 is %v, b/m1 is %v: want started and starting", a, b)
		}
	})
}
