package machine_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/autostart/machine/internal/health"
	"github.com/ebbkit/ebb/balance"
	"github.com/google/go-cmp/cmp"
)

// seeing is a driver that knows where its machines listen.
type seeing struct {
	*fakeDriver
	mu      sync.Mutex
	listens []string
	output  string
	err     error
	// machines that start from now on only listen there, and do nothing else
	broken bool
	begun  map[balance.MachineID]time.Time // of those
}

// Start implements Driver.
func (d *seeing) Start(ctx context.Context, m balance.Machine) (machine.Booting, error) {
	d.mu.Lock()
	if delete(d.begun, m.ID); d.broken {
		d.begun[m.ID] = time.Now()
	}
	d.mu.Unlock()
	return d.fakeDriver.Start(ctx, m)
}

func (d *seeing) see(output string, listens ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.output, d.listens = output, listens
}

// Describe implements Describer.
func (d *seeing) Describe(_ context.Context, m balance.Machine) (machine.Description, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.begun != nil {
		began, broken := d.begun[m.ID]
		if !broken {
			return machine.Description{Known: true}, nil
		}
		return machine.Description{
			Listens: d.listens, Known: true, Idle: time.Since(began), Output: d.output,
		}, nil
	}
	return machine.Description{Listens: d.listens, Known: true, Output: d.output}, d.err
}

func TestDiagnosisOfABoot(t *testing.T) {
	type step struct {
		until   time.Duration
		output  string // the last line that the driver sees until then
		listens string
		fault   string // what the row says then
	}
	for _, tc := range []struct {
		name   string
		habits habits
		config machine.Config
		dials  bool // the check is one of the machine's address
		steps  []step
		events []string
	}{
		{"it comes up before anybody asks", habits{boot: 4 * sec}, machine.Config{}, true, []step{{4500 * time.Millisecond, "", "", ""}}, []string{"ready m0 cold 4s"}},
		{"it listens nowhere", habits{boot: 7 * sec}, machine.Config{}, true, []step{
			{4 * sec, "", "", ""},
			{6 * sec, "", "", "not ready after 5s: connection refused at m0.web:80; it listens nowhere"},
			{8 * sec, "", "", ""},
		}, []string{"m0 not ready after 5s: connection refused at m0.web:80; it listens nowhere", "ready m0 cold 7s"}},
		{"what it says last, and then where it listens", habits{boot: time.Hour}, machine.Config{}, false, []step{
			{6 * sec, "cannot open config", "", "not ready after 5s: connection refused at m0.web:80; it listens nowhere; it last wrote: cannot open config"},
			{11 * sec, "still cannot open config", "", "not ready after 5s: connection refused at m0.web:80; it listens nowhere; it last wrote: cannot open config"},
			{16 * sec, "", "[::1]:80", "not ready after 12.5s: connection refused at m0.web:80; it listens at [::1]:80"},
		}, []string{
			"m0 not ready after 5s: connection refused at m0.web:80; it listens nowhere; it last wrote: cannot open config",
			"m0 not ready after 12.5s: connection refused at m0.web:80; it listens at [::1]:80",
		}},
		{"it listens elsewhere, and not where it should", habits{boot: time.Hour}, machine.Config{}, true, []step{
			{2250 * time.Millisecond, "", "0.0.0.0:8080", ""},
			{3500 * time.Millisecond, "", "0.0.0.0:8080", "it listens at 0.0.0.0:8080 and not at m0.web:80: make it listen there, or set App.BootHint if that takes longer"},
		}, []string{"failed m0: it listens at 0.0.0.0:8080 and not at m0.web:80: make it listen there, or set App.BootHint if that takes longer"}},
		{"other checks may pass all the same", habits{boot: 8 * sec}, machine.Config{}, false, []step{
			{6 * sec, "", "0.0.0.0:8080", "not ready after 5s: connection refused at m0.web:80; it listens at 0.0.0.0:8080"},
			{9 * sec, "", "0.0.0.0:8080", ""},
		}, []string{"m0 not ready after 5s: connection refused at m0.web:80; it listens at 0.0.0.0:8080", "ready m0 cold 8s"}},
		{"a grace", habits{boot: 12 * sec}, machine.Config{Check: machine.Check{Grace: 20 * sec}}, true, []step{
			{11 * sec, "", "0.0.0.0:8080", "not ready after 5s: connection refused at m0.web:80; it listens at 0.0.0.0:8080"},
			{13 * sec, "", "0.0.0.0:8080", ""},
		}, []string{"m0 not ready after 5s: connection refused at m0.web:80; it listens at 0.0.0.0:8080", "ready m0 cold 12s"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &seeing{fakeDriver: newFakeDriver()}
				r := newRigWith(t, d.fakeDriver, d, tc.config, tc.habits)
				r.s.Dials(tc.dials)
				r.fleet.Apply(
					balance.PutApp{
						App: balance.App{ID: "web", BootHint: tc.config.Check.Grace / 2, RestartAfter: -1},
					},
				)
				d.see(tc.steps[0].output, strings.Fields(tc.steps[0].listens)...)
				r.start("m0")
				began := time.Now()
				for _, st := range tc.steps {
					d.see(st.output, strings.Fields(st.listens)...)
					time.Sleep(st.until - time.Since(began))
					if got := r.row("m0").Fault; got != st.fault {
						t.Errorf("after %v the row says %q, want %q", st.until, got, st.fault)
					}
				}
				r.mu.Lock()
				got := r.events[1:] // that it starts
				r.mu.Unlock()
				if diff := cmp.Diff(tc.events, got); diff != "" {
					t.Errorf("events (-want +got)\n%s", diff)
				}
				r.stop()
			})
		})
	}
}

// An app that opens other ports long before the right one fails at first, and becomes ready in the
// end without help; from then on it is known how long that takes.
func TestPortsThatAreOpenBeforeTheRightOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &seeing{fakeDriver: newFakeDriver()}
		d.see("", "127.0.0.1:9090")
		r := newRigWith(t, d.fakeDriver, d, machine.Config{}, habits{boot: 20 * sec})
		r.restartAfter(-1)
		defer r.stop()
		r.s.Dials(true)
		starts := 0
		for ; r.row("m0").State != balance.StateStarted && starts < 10; starts++ {
			r.start("m0")
			time.Sleep(21 * sec)
		}
		if starts != health.MisplacedTries+4 {
			t.Errorf("it came up at start %d, want the first that is given longer than 20 s", starts)
		}
		for range 3 {
			r.d.crash("m0", machine.Exit{Code: 1})
			synctest.Wait()
			r.start("m0")
			time.Sleep(21 * sec)
			if m := r.row("m0"); m.State != balance.StateStarted {
				t.Errorf("the next time: %v, %q", m.State, m.Fault)
			}
		}
	})
}

// A driver whose Describe fails does no harm.
func TestDescribeThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &seeing{fakeDriver: newFakeDriver(), err: errors.New("no")}
		d.see("", "127.0.0.1:9090")
		r := newRigWith(t, d.fakeDriver, d, machine.Config{}, habits{boot: 6 * sec})
		defer r.stop()
		r.s.Dials(true)
		r.start("m0")
		time.Sleep(5500 * time.Millisecond)
		if m := r.row("m0"); m.Fault != "not ready after 5s: connection refused at m0.web:80" {
			t.Errorf("the row says %q", m.Fault)
		}
		time.Sleep(sec)
		if m := r.row("m0"); m.State != balance.StateStarted {
			t.Errorf("%v, %q", m.State, m.Fault)
		}
	})
}

// A request that has waited in vain is told what its machine lacks.
func TestClientLearnsWhatTheBootLacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, balance.App{BootHint: sec}, machine.Config{}, habits{boot: time.Hour})
		defer n.stop()
		_, _, err := n.get()
		class(t, err, autostart.ErrPatience, true)
		if want := "machine m0: not ready after 5s: connection refused at m0.web:80"; !strings.Contains(
			err.Error(), want,
		) {
			t.Errorf("error %q, want it to say %q", err, want)
		}
	})
}

// Each app has its own check.
func TestCheckOfAnApp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		looks := map[balance.AppID]int{}
		d := newFakeDriver()
		check := func(every time.Duration) machine.Check {
			return machine.Check{Every: every, Func: func(ctx context.Context, m balance.Machine) error {
				mu.Lock()
				defer mu.Unlock()
				looks[m.App]++
				return d.check(ctx, m)
			}}
		}
		of := func(a balance.App) machine.Check {
			switch a.ID {
			case "web":
				return check(5 * sec)
			case "api":
				return check(time.Duration(a.Limits.Soft) * sec)
			case "mad":
				return machine.Check{Timeout: -sec}
			}
			panic("no such app")
		}
		r := newRigWith(t, d, d, machine.Config{CheckOf: of, Check: check(sec)}, habits{})
		defer r.stop()
		for _, app := range []balance.AppID{"api", "mad", "odd"} {
			r.fleet.Apply(balance.PutApp{App: balance.App{ID: app, Limits: balance.Limits{Soft: 10}}})
			r.fleet.Host(balance.Machine{ID: balance.MachineID(app), App: app, Region: "nrt"})
		}
		states := map[balance.AppID]balance.Machine{}
		machines := map[balance.AppID]balance.MachineID{
			"web": "m0", "api": "api", "mad": "mad", "odd": "odd",
		}
		for app, id := range machines {
			rows, _ := r.fleet.App(app)
			m, _ := rows.Machine(id)
			r.s.Start(t.Context(), m)
			synctest.Wait()
			rows, _ = r.fleet.App(app)
			states[app], _ = rows.Machine(id)
		}
		mu.Lock()
		clear(looks)
		mu.Unlock()
		time.Sleep(101 * sec)
		mu.Lock()
		defer mu.Unlock()
		if got := fmt.Sprint(looks["web"], looks["api"]); got != "20 10" {
			t.Errorf("looked %s times in 100 s, want 20 and 10", got)
		}
		for app, want := range map[balance.AppID]string{"mad": "Check.Timeout -1s", "odd": "no such app"} {
			if m := states[app]; m.State != balance.StateFailed || !strings.Contains(m.Fault, want) {
				t.Errorf("%s: %v, %q; want it to name %q", app, m.State, m.Fault, want)
			}
		}
	})
}
