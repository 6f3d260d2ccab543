package machine_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/balance"
	"github.com/google/go-cmp/cmp"
)

// refuses makes nothing listen at a machine's address, though its driver believes that it runs.
func (d *fakeDriver) refuses(id balance.MachineID) {
	d.Sicken("web", id, refused(string(id)+".web:80"))
}

func (d *fakeDriver) sicken(id balance.MachineID, sick bool) {
	var err error
	if sick {
		err = errUnwell
	}
	d.Sicken("web", id, err)
}

func TestRestartOfAMachineThatIsDead(t *testing.T) {
	for _, tc := range []struct {
		name string
		c    machine.Config
		app  time.Duration // its RestartAfter
		do   func(r *rig)
		want []string
	}{
		{"its checks fail", machine.Config{}, 0, func(r *rig) {
			time.Sleep(30 * sec)
			r.d.sicken("m0", true)
			time.Sleep(50 * sec)
		}, []string{"m0 failing: unwell", "restarting m0: its checks have failed for 30s: unwell", "starting m0@2", "ready m0 cold 1s"}},
		{"and pass again in time", machine.Config{}, 0, func(r *rig) {
			r.d.sicken("m0", true)
			time.Sleep(30 * sec)
			r.d.sicken("m0", false)
			time.Sleep(60 * sec)
		}, []string{"m0 failing: unwell", "m0 passing: <nil>"}},
		{"nothing listens there", machine.Config{}, 0, func(r *rig) {
			r.d.refuses("m0")
			time.Sleep(10 * sec)
		}, []string{"m0 failing: dial tcp m0.web:80: connect: connection refused", "restarting m0: nothing has listened there for 1s: dial tcp m0.web:80: connect: connection refused", "starting m0@2", "ready m0 cold 1s"}},
		{"nothing listens there, and a request has noticed", machine.Config{Check: machine.Check{Every: -1}}, 0, func(r *rig) {
			r.d.refuses("m0")
			r.fleet.Gate("web", "m0").Suspect(1)
			time.Sleep(3 * sec)
		}, []string{"m0 failing: dial tcp m0.web:80: connect: connection refused", "restarting m0: nothing has listened there for 1s: dial tcp m0.web:80: connect: connection refused", "starting m0@2", "ready m0 cold 1s"}},
		{"a request was wrong about it", machine.Config{}, 0, func(r *rig) {
			r.fleet.Gate("web", "m0").Suspect(1)
			r.fleet.Gate("web", "m0").Suspect(1)
			time.Sleep(60 * sec)
		}, nil},
		{"its exit was not reported", machine.Config{}, 0, func(r *rig) {
			r.d.silence(true)
			r.d.crash("m0", machine.Exit{})
			r.d.silence(false)
			time.Sleep(10 * sec)
		}, []string{"m0 failing: dial tcp m0.web:80: connect: connection refused", "restarting m0: nothing has listened there for 1s: dial tcp m0.web:80: connect: connection refused", "starting m0@2", "ready m0 cold 1s"}},
		{"something that it needs does not listen: its own port does", machine.Config{}, 0, func(r *rig) {
			r.d.Sicken("web", "m0", refused("database:5432"))
			time.Sleep(20 * sec)
		}, []string{"m0 failing: dial tcp database:5432: connect: connection refused"}},
		{"it is frozen: it accepts, and does not answer", machine.Config{}, 0, func(r *rig) {
			r.d.Sicken("web", "m0", errFrozen)
			time.Sleep(5*sec + 3*2*sec) // until the next check, and three that time out
			if m := r.row("m0"); m.Health != balance.HealthFailing {
				r.t.Errorf("it is %v after one interval and its checks", m.Health)
			}
			time.Sleep(40 * sec)
		}, []string{"m0 failing: context deadline exceeded", "restarting m0: its checks have failed for 32s: context deadline exceeded", "starting m0@2", "ready m0 cold 1s"}},
		{"not for this app, though nothing listens there", machine.Config{}, -1, func(r *rig) {
			r.d.refuses("m0")
			time.Sleep(10 * time.Minute)
		}, []string{"m0 failing: dial tcp m0.web:80: connect: connection refused"}},
		{"not for this app", machine.Config{}, -1, func(r *rig) {
			r.d.sicken("m0", true)
			time.Sleep(10 * time.Minute)
		}, []string{"m0 failing: unwell"}},
		{"sooner for this app", machine.Config{}, 10 * sec, func(r *rig) {
			time.Sleep(30 * sec)
			r.d.sicken("m0", true)
			time.Sleep(20 * sec)
		}, []string{"m0 failing: unwell", "restarting m0: its checks have failed for 10s: unwell", "starting m0@2", "ready m0 cold 1s"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, tc.c, habits{boot: sec})
				r.fleet.Apply(balance.PutApp{App: balance.App{ID: "web", RestartAfter: tc.app}})
				r.start("m0")
				time.Sleep(2 * sec)
				tc.do(r)
				r.stop()
				want := append([]string{"starting m0@1", "ready m0 cold 1s"}, tc.want...)
				if diff := cmp.Diff(want, r.events); diff != "" {
					t.Errorf("events (-want +got)\n%s", diff)
				}
				if m := r.row("m0"); m.State != balance.StateStarted || m.Fault != "" {
					t.Errorf("in the end: %+v", m)
				}
			})
		})
	}
}

// Restarts that do not help are spaced further and further apart; after one that helps the backoff
// is reset.
func TestRestartsBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, machine.Config{}, habits{})
		defer r.stop()
		r.d.mu.Lock()
		r.d.sickAfter = 21 * sec // each run is well until its checks count, and no longer
		r.d.mu.Unlock()
		r.start("m0")
		starts := func(in time.Duration) int {
			before, _, _ := r.d.counts()
			time.Sleep(in)
			after, _, _ := r.d.counts()
			return after - before
		}
		if n := starts(10 * time.Minute); n < 4 || n > 5 {
			t.Errorf("%d restarts in the first 10 min, want those after 30 s, 1, 2 and 4 min", n)
		}
		if n := starts(time.Hour); n < 6 || n > 8 {
			t.Errorf("%d restarts in the hour after that, want one each 8 min", n)
		}
		r.d.mu.Lock()
		r.d.sickAfter = 0
		r.d.mu.Unlock()
		time.Sleep(time.Hour)
		r.d.sicken("m0", true)
		if n := starts(45 * sec); n != 1 {
			t.Errorf("%d restarts of what had been well for long, want 1 after 30 s", n)
		}
	})
}

// A machine that cannot be stopped is not forgotten: it keeps its state, and the restart is tried
// again.
func TestRestartThatCannotBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, machine.Config{}, habits{stopErr: errors.New("no")})
		defer r.stop()
		r.start("m0")
		time.Sleep(21 * sec) // it is not recent any more
		r.d.sicken("m0", true)
		time.Sleep(40 * sec)
		if m := r.row("m0"); m.State != balance.StateStarted || m.Health != balance.HealthFailing ||
			!strings.Contains(m.Fault, "stopping it failed: no") {
			t.Errorf("row %+v", m)
		}
		r.d.mu.Lock()
		r.d.habits["m0"] = habits{}
		r.d.mu.Unlock()
		time.Sleep(2 * time.Minute)
		if m := r.row("m0"); m.State != balance.StateStarted || m.Health != balance.HealthPassing ||
			m.Epoch != 2 ||
			m.Fault != "" {
			t.Errorf("row after it could be: %+v", m)
		}
	})
}

// A stop by somebody else, or for good, takes precedence.
func TestRestartAndOtherStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, machine.Config{}, habits{stops: 2 * sec})
		defer r.stop()
		r.start("m0")
		time.Sleep(sec)
		g := r.fleet.Gate("web", "m0")
		token, _ := g.CloseNow()
		r.d.refuses("m0")
		time.Sleep(time.Minute)
		if _, stops, _ := r.d.counts(); stops != 0 {
			t.Errorf("%d stops behind a gate that somebody else has closed", stops)
		}
		g.Reopen(token)
		for g.State() == balance.StateStarted {
			time.Sleep(100 * time.Millisecond)
		}
		g.Forget() // somebody ends all machines
		time.Sleep(time.Minute)
		if starts, stops, running := r.d.counts(); starts != 1 || stops != 1 || running != 0 ||
			g.State() != balance.StateStopped {
			t.Errorf(
				"%d starts, %d stops, %d running, %v; want that it stays stopped", starts, stops, running,
				g.State(),
			)
		}
	})
}

// If all machines fail their checks, one is restarted to see whether that helps; if it does, the
// others are restarted too.
func TestRestartWhereAllFail(t *testing.T) {
	for _, helps := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, machine.Config{}, habits{}, habits{}, habits{})
			defer r.stop()
			for i := range 3 {
				r.start(balance.MachineID(fmt.Sprintf("m%d", i)))
			}
			time.Sleep(21 * sec) // they are not recent any more
			r.d.mu.Lock()
			if !helps {
				r.d.sickAfter = time.Nanosecond
			}
			r.d.mu.Unlock()
			for _, id := range canonical("web", 3) {
				r.d.sicken(id, true)
			}
			time.Sleep(42 * sec)
			starts, _, _ := r.d.counts()
			if m := r.row(canonical("web", 3)[0]); starts != 4 || m.Epoch != 2 {
				t.Errorf(
					"helps: %v: %d restarts, the first of the order at epoch %d; want 1, and 2", helps, starts-3,
					m.Epoch,
				)
			}
			time.Sleep(50 * sec)
			if starts, _, _ := r.d.counts(); !helps && starts != 5 && starts != 4 || helps && starts != 6 {
				t.Errorf("helps: %v: %d restarts after 90 s", helps, starts-3)
			}
		})
	}
}

// refused is the error of a connect to an address where nothing listens.
func refused(addr string) error {
	return &net.OpError{
		Op: "dial", Net: "tcp", Addr: address(addr),
		Err: os.NewSyscallError("connect", syscall.ECONNREFUSED),
	}
}

type address string

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }
