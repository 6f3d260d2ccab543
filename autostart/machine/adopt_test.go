package machine_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/balance"
)

// left returns a driver with a running machine that an earlier process has started, at epoch 7.
func left(t *testing.T, of habits) *fakeDriver {
	t.Helper()
	d := newFakeDriver()
	d.habits["m0"] = of
	if _, err := d.Start(t.Context(), balance.Machine{App: "web", ID: "m0", Epoch: 7}); err != nil {
		t.Fatal(err)
	}
	return d
}

// A machine that runs when a starter begins is adopted, and goes on as any other machine does.
func TestAdoption(t *testing.T) {
	for _, tc := range []struct {
		name   string
		habits habits
		config machine.Config
		before func(d *fakeDriver)
		do     func(r *rig)
		state  balance.State
		epoch  uint64
		events []string
	}{
		{
			name: "ready", state: balance.StateStarted, epoch: 7,
			events: []string{"adopted m0@7", "ready m0 cold 0s"},
		},
		{
			name: "it boots still", habits: habits{boot: 3 * sec}, state: balance.StateStarted, epoch: 7,
			events: []string{"adopted m0@7", "ready m0 cold 3s"},
		},
		{
			name: "its exit is noticed", do: func(r *rig) { r.d.crash("m0", machine.Exit{Code: 1, Reason: "exit status 1"}) },
			state: balance.StateFailed, epoch: 7,
			events: []string{"adopted m0@7", "ready m0 cold 0s", "exited m0@7: exit status 1"},
		},
		{
			name: "it is checked, and restarted", do: func(r *rig) { r.d.refuses("m0") },
			state: balance.StateStarted, epoch: 8,
			events: []string{
				"adopted m0@7", "ready m0 cold 0s",
				"m0 failing: dial tcp m0.web:80: connect: connection refused",
				"restarting m0: nothing has listened there for 1s: dial tcp m0.web:80: connect: connection refused",
				"starting m0@8", "ready m0 cold 0s",
			},
		},
		{
			name: "it fails its check for a while", before: func(d *fakeDriver) { d.sicken("m0", true) },
			do:    func(r *rig) { r.d.sicken("m0", false) },
			state: balance.StateStarted, epoch: 7,
			events: []string{"adopted m0@7", "m0 not ready after 5s: unwell", "ready m0 cold 10.01s"},
		},
		{
			name: "it fails its check for too long", config: machine.Config{BootCap: 15 * sec},
			before: func(d *fakeDriver) { d.sicken("m0", true) }, state: balance.StateFailed, epoch: 7,
			events: []string{
				"adopted m0@7", "m0 not ready after 5s: unwell", "failed m0: not ready after 15s: unwell",
			},
		},
		{
			name: "it is suspended", before: func(d *fakeDriver) {
				d.Suspend(context.Background(), balance.Machine{App: "web", ID: "m0"})
			},
			state: balance.StateSuspended, epoch: 7,
		},
		{
			name: "it is suspended, and resumed", before: func(d *fakeDriver) {
				d.Suspend(context.Background(), balance.Machine{App: "web", ID: "m0"})
			},
			do:    func(r *rig) { r.start("m0") },
			state: balance.StateStarted, epoch: 8,
			events: []string{"starting m0@8", "ready m0 resume 0s"},
		},
		{
			name: "it is suspended, and ends", before: func(d *fakeDriver) {
				d.Suspend(context.Background(), balance.Machine{App: "web", ID: "m0"})
			},
			do:    func(r *rig) { r.d.crash("m0", machine.Exit{Code: 1, Reason: "exit status 1"}) },
			state: balance.StateFailed, epoch: 7, events: []string{"exited m0@7: exit status 1"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := left(t, tc.habits)
				if tc.before != nil {
					tc.before(d)
				}
				r := newRigWith(t, d, d, tc.config, habits{})
				time.Sleep(10 * sec)
				if tc.do != nil {
					tc.do(r)
				}
				time.Sleep(10 * sec)
				synctest.Wait()
				m := r.row("m0")
				if m.State != tc.state || m.Epoch != tc.epoch || m.Addr != "m0.web:80" && m.Addr != "" {
					t.Errorf("it is %v at epoch %d, at %q: %s", m.State, m.Epoch, m.Addr, m.Fault)
				}
				if diff := cmp.Diff(tc.events, r.events); diff != "" {
					t.Errorf("events (-want +got)\n%s", diff)
				}
				if _, _, running := d.counts(); running != 1 && tc.state != balance.StateFailed {
					t.Errorf("%d machines run", running)
				}
				r.stop()
			})
		})
	}
}

// How many requests an earlier process had in flight at an adopted machine is unknown: for a while
// one slot is taken for them, and the machine is not stopped.
func TestAnAdoptedMachineDrains(t *testing.T) {
	for name, tc := range map[string]struct{ hold, drain time.Duration }{
		"by default": {0, machine.DrainMax}, "as its app says": {5 * sec, 5 * sec},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := left(t, habits{})
				f, _ := balance.NewFleet(balance.FleetConfig{Node: "n", Region: "nrt", Incarnation: 2})
				app := balance.App{ID: "web", Limits: balance.Limits{Hard: 2}, AbandonedHold: tc.hold}
				if err := f.Apply(balance.PutApp{App: app}); err != nil {
					t.Fatal(err)
				}
				g, err := f.Host(balance.Machine{ID: "m0", App: "web", Region: "nrt"})
				if err != nil {
					t.Fatal(err)
				}
				s, err := machine.NewStarter(f, d, machine.Config{Check: machine.Check{Func: d.check}})
				if err != nil {
					t.Fatal(err)
				}
				go s.Run(t.Context())
				synctest.Wait()
				sleeps := func() bool {
					gen, _ := g.Cordon()
					_, ok := g.Close(gen, false)
					g.Uncordon(gen)
					return ok
				}
				_, first := g.Enter(0, 7, 0)
				_, second := g.Enter(0, 7, 0)
				if first != balance.BounceNone || second != balance.BounceFull {
					t.Errorf("two requests at a hard limit of two: %v, %v", first, second)
				}
				g.Leave()
				time.Sleep(tc.drain - sec)
				if sleeps() {
					t.Error("it is stopped before what may be in work there has ended")
				}
				time.Sleep(2 * sec)
				if n := g.InFlight(); n != 0 || !sleeps() {
					t.Errorf("it does not drain: %d in flight", n)
				}
			})
		})
	}
}

// Machines that the node does not host are reported and left alone. One that is hosted later is
// adopted when it is to be started.
func TestUnknownMachinesAreLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := left(t, habits{})
		d.Start(t.Context(), balance.Machine{App: "web", ID: "m7", Epoch: 3})
		d.Start(t.Context(), balance.Machine{App: "web", ID: "m8", Epoch: 4})
		r := newRigWith(t, d, d, machine.Config{}, habits{})
		time.Sleep(sec)
		d.crash("m8", machine.Exit{Code: 1})
		for _, id := range []balance.MachineID{"m7", "m8"} {
			if _, err := r.fleet.Host(balance.Machine{ID: id, App: "web", Region: "nrt"}); err != nil {
				t.Fatal(err)
			}
			r.start(id)
			time.Sleep(sec)
		}
		if m := r.row("m7"); m.State != balance.StateStarted || m.Epoch != 3 {
			t.Errorf("the one that runs is %v at epoch %d", m.State, m.Epoch)
		}
		if m := r.row("m8"); m.State != balance.StateStarted || m.Epoch != 1 {
			t.Errorf("the one that has ended is %v at epoch %d", m.State, m.Epoch)
		}
		r.stop()
		want := []string{
			"unknown web/m7@3", "unknown web/m8@4", "adopted m7@3", "ready m7 cold 0s",
			"starting m8@1", "ready m8 cold 0s",
		}
		// m0 is adopted while the list is gone through.
		got := slices.DeleteFunc(r.events, func(e string) bool { return strings.Contains(e, " m0") })
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("events (-want +got)\n%s", diff)
		}
		if calls := d.Calls(); slices.Contains(calls, "stop web/m7@3") {
			t.Errorf("calls %q", calls)
		}
	})
}

// Nothing is started until the driver has listed what runs, for 10 s at most.
func TestAListThatFails(t *testing.T) {
	for _, tc := range []struct {
		name   string
		fails  time.Duration // List, for so long
		blocks bool          // it does not return meanwhile
		waits  time.Duration // a start of another machine
	}{
		{"for a moment", 500 * time.Millisecond, false, sec},
		{"for long", time.Minute, false, machine.ListMax},
		{"blocking", time.Minute, true, machine.ListMax},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := left(t, habits{})
				began := time.Now()
				d.OnList = func(ctx context.Context) error {
					if left := tc.fails - time.Since(began); left > 0 {
						if tc.blocks {
							pause(ctx, left)
						}
						return errors.New("503")
					}
					return nil
				}
				r := newRigWith(t, d, d, machine.Config{}, habits{}, habits{})
				if a := r.start("m1"); a != balance.StartAccepted {
					t.Error(a)
				}
				if took := time.Since(began); took > tc.waits || took < min(tc.fails, tc.waits) {
					t.Errorf("a start waited for %v", took)
				}
				r.start("m0") // it runs
				time.Sleep(3 * time.Minute)
				epoch := uint64(7)
				if tc.fails > machine.ListMax {
					// the driver has refused to start the running machine, and was told to stop it
					if m := r.row("m0"); m.State != balance.StateFailed ||
						!strings.Contains(m.Fault, "it runs already") {
						t.Errorf("started in doubt it is %v: %s", m.State, m.Fault)
					}
					epoch = 2
					r.start("m0")
					time.Sleep(sec)
				}
				if m := r.row("m0"); m.State != balance.StateStarted || m.Epoch != epoch || m.Fault != "" {
					t.Errorf("in the end it is %v at epoch %d: %s", m.State, m.Epoch, m.Fault)
				}
				r.stop()
			})
		})
	}
}

// leaving is a driver whose machine ends when it has been listed.
type leaving struct {
	*fakeDriver
	ends bool
}

func (l *leaving) List(ctx context.Context) ([]machine.Running, error) {
	all, err := l.fakeDriver.List(ctx)
	if time.Sleep(time.Millisecond); l.ends { // somebody watches by then
		l.ends = false
		l.crash("m0", machine.Exit{Code: 1, Reason: "exit status 1"})
	}
	return all, err
}

// A machine that ends before its first check does not go on counting as booting, whether its end is
// reported or not.
func TestAMachineThatEndsAfterItIsListed(t *testing.T) {
	for name, silent := range map[string]bool{"reported": false, "not reported": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &leaving{left(t, habits{}), true}
				l.silence(silent)
				r := newRigWith(t, l.fakeDriver, l, machine.Config{}, habits{})
				want := "it ended while starting: exit status 1"
				if silent {
					want = "it ended while starting: its driver does not list it any more"
				}
				time.Sleep(6 * sec)
				if m := r.row("m0"); m.State != balance.StateFailed || m.Fault != want {
					t.Errorf("it is %v: %s; want %s", m.State, m.Fault, want)
				}
				l.silence(false)
				r.start("m0")
				time.Sleep(sec)
				if m := r.row("m0"); m.State != balance.StateStarted || m.Epoch != 8 {
					t.Errorf("started again it is %v at epoch %d", m.State, m.Epoch)
				}
				r.stop()
			})
		})
	}
}

// A starter that follows another one in the same process goes on where that one ended.
func TestAStarterFollowsAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, machine.Config{}, habits{})
		r.start("m0")
		time.Sleep(sec)
		r.stop()
		var exited []machine.Exit
		s, err := machine.NewStarter(r.fleet, r.d, machine.Config{
			Check: machine.Check{Func: r.d.check},
			Trace: machine.Trace{
				Exited: func(_ balance.Machine, e machine.Exit) { exited = append(exited, e) },
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		go s.Run(t.Context())
		time.Sleep(sec)
		if n := r.fleet.Gate("web", "m0").InFlight(); n != 0 {
			t.Errorf("%d in flight at a machine of this process that nobody uses", n)
		}
		r.d.crash("m0", machine.Exit{Code: 1, Reason: "exit status 1"})
		synctest.Wait()
		if m := r.row("m0"); m.State != balance.StateFailed || len(exited) != 1 {
			t.Errorf("after its exit it is %v; told: %v", m.State, exited)
		}
	})
}
