package machine_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/autostart/internal/autotest"
	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/balance"
	"github.com/google/go-cmp/cmp"
)

func TestStarterStories(t *testing.T) {
	killed := machine.Exit{Code: -1, Signal: "killed", Reason: "killed by signal: killed"}
	for _, tc := range []struct {
		name   string
		config machine.Config
		habits habits
		after  time.Duration
		state  balance.State
		fault  string // the row's
		events []string
	}{
		{name: "a boot", habits: habits{boot: 2 * sec}, after: 5 * sec, state: balance.StateStarted, events: []string{"starting m0@1", "ready m0 cold 2s"}},
		{name: "at once", habits: habits{}, after: sec, state: balance.StateStarted, events: []string{"starting m0@1", "ready m0 cold 0s"}},
		{name: "it ends while starting", habits: habits{boot: 9 * sec, ends: sec, end: machine.Exit{Code: 1, Reason: "exit status 1"}}, after: 2 * sec, state: balance.StateFailed,
			fault: "it ended while starting: exit status 1", events: []string{"starting m0@1", "failed m0: it ended while starting: exit status 1"}},
		{name: "it ends with 0 while starting", habits: habits{boot: 9 * sec, ends: sec, end: machine.Exit{Reason: "exit status 0"}}, after: 2 * sec, state: balance.StateFailed,
			fault: "it ended while starting: exit status 0", events: []string{"starting m0@1", "failed m0: it ended while starting: exit status 0"}},
		{name: "never ready", config: machine.Config{BootCap: 3 * sec}, habits: habits{boot: time.Hour}, after: 4 * sec, state: balance.StateFailed,
			fault: "not ready after 3s: connection refused at m0.web:80", events: []string{"starting m0@1", "failed m0: not ready after 3s: connection refused at m0.web:80"}},
		{name: "never ready, and it cannot be stopped", config: machine.Config{BootCap: 3 * sec}, habits: habits{boot: time.Hour, stopErr: errors.New("no")}, after: 4 * sec, state: balance.StateFailed,
			fault: "not ready after 3s: connection refused at m0.web:80; and stopping it failed: no", events: []string{"starting m0@1", "failed m0: not ready after 3s: connection refused at m0.web:80; and stopping it failed: no"}},
		{name: "the driver says no", habits: habits{startErr: errors.New("no such image")}, after: 2 * sec, state: balance.StateFailed,
			fault: "the driver could not start it: no such image", events: []string{"starting m0@1", "failed m0: the driver could not start it: no such image"}},
		{name: "the driver panics", habits: habits{panics: true}, after: 2 * sec, state: balance.StateFailed,
			fault: "the driver could not start it: panic: driver bug", events: []string{"starting m0@1", "failed m0: the driver could not start it: panic: driver bug"}},
		{name: "the driver answers nonsense", habits: habits{addr: "nowhere"}, after: sec, state: balance.StateFailed,
			fault:  `the driver says that it listens at "nowhere": address nowhere: missing port in address`,
			events: []string{"starting m0@1", `failed m0: the driver says that it listens at "nowhere": address nowhere: missing port in address`}},
		{name: "a crash", habits: habits{boot: sec, ends: 5 * sec, end: killed}, after: 6 * sec, state: balance.StateFailed,
			fault: "killed by signal: killed", events: []string{"starting m0@1", "ready m0 cold 1s", "exited m0@1: killed by signal: killed"}},
		{name: "it has had enough", habits: habits{boot: sec, ends: 5 * sec, end: machine.Exit{Reason: "exit status 0"}}, after: 6 * sec, state: balance.StateStopped,
			events: []string{"starting m0@1", "ready m0 cold 1s", "exited m0@1: exit status 0"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, tc.config, tc.habits)
				if a := r.start("m0"); a != balance.StartAccepted {
					t.Fatalf("answer %v", a)
				}
				time.Sleep(tc.after)
				synctest.Wait()
				m := r.row("m0")
				if m.State != tc.state || m.Fault != tc.fault || m.Epoch != 1 {
					t.Errorf(
						"row: %v at epoch %d, fault %q; want %v, %q", m.State, m.Epoch, m.Fault, tc.state, tc.fault,
					)
				}
				if tc.state == balance.StateStarted &&
					(m.Addr != "m0.web:80" || m.Health != balance.HealthPassing || !m.Recent) {
					t.Errorf("row of a machine that is ready: %+v", m)
				}
				if _, _, running := r.d.counts(); tc.state == balance.StateFailed && running > 0 &&
					tc.habits.stopErr == nil {
					t.Error("the row says failed and the machine still runs")
				}
				r.stop()
				if diff := cmp.Diff(tc.events, r.events); diff != "" {
					t.Errorf("events (-want +got)\n%s", diff)
				}
			})
		})
	}
}

func TestStartIsIdempotent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, machine.Config{}, habits{boot: sec})
		row := r.row("m0")
		var mu sync.Mutex
		answers := map[balance.StartAnswer]int{}
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				a, err := r.s.Start(t.Context(), row)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				answers[a]++
				mu.Unlock()
			})
		}
		wg.Wait()
		if answers[balance.StartAccepted] != 1 || answers[balance.StartUnderway] != 49 {
			t.Errorf("answers %v, want one accepted", answers)
		}
		time.Sleep(2 * sec)
		if a := r.start("m0"); a != balance.StartRunning {
			t.Errorf("of a running machine: %v", a)
		}
		r.d.crash("m0", machine.Exit{Code: 1, Reason: "exit status 1"})
		synctest.Wait()
		if a, _ := r.s.Start(t.Context(), row); a != balance.StartRefused {
			t.Errorf("from an old epoch: %v", a)
		}
		if a := r.start("m0"); a != balance.StartAccepted {
			t.Errorf("after a crash: %v", a)
		}
		time.Sleep(2 * sec)
		if m := r.row("m0"); m.State != balance.StateStarted || m.Epoch != 2 || m.Fault != "" {
			t.Errorf("row %+v", m)
		}
		if _, err := r.s.Start(t.Context(), balance.Machine{ID: "other", App: "web"}); err == nil ||
			!strings.Contains(err.Error(), `"other"`) {
			t.Errorf("a machine of somebody else: %v", err)
		}
		r.stop()
		if starts, _, _ := r.d.counts(); starts != 2 {
			t.Errorf("the driver was called %d times", starts)
		}
	})
}

func TestStopAndSuspendAreNoFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, machine.Config{}, habits{boot: sec})
		gate := r.fleet.Gate("web", "m0")
		r.start("m0")
		time.Sleep(2 * sec)
		// Suspended and resumed.
		gen, _ := gate.Cordon()
		token, ok := gate.Close(gen, true)
		if !ok {
			t.Fatal("not closed")
		}
		r.d.Suspend(t.Context(), r.row("m0"))
		gate.Closed(token, true)
		time.Sleep(time.Minute)
		if m := r.row("m0"); m.State != balance.StateSuspended || m.Health != balance.HealthPassing ||
			m.Fault != "" {
			t.Errorf("row of a suspended machine: %+v", m)
		}
		r.start("m0")
		time.Sleep(2 * sec)
		if m := r.row("m0"); m.State != balance.StateStarted || m.Epoch != 2 {
			t.Errorf("row after a resume: %v at epoch %d", m.State, m.Epoch)
		}
		// Stopped.
		gen, _ = gate.Cordon()
		token, _ = gate.Close(gen, false)
		r.d.Stop(t.Context(), r.row("m0"))
		gate.Closed(token, false)
		synctest.Wait()
		if m := r.row("m0"); m.State != balance.StateStopped || m.Fault != "" {
			t.Errorf("row of a stopped machine: %+v", m)
		}
		// Started, suspended, killed while suspended.
		r.start("m0")
		time.Sleep(2 * sec)
		gen, _ = gate.Cordon()
		token, _ = gate.Close(gen, true)
		r.d.Suspend(t.Context(), r.row("m0"))
		gate.Closed(token, true)
		r.d.crash("m0", machine.Exit{Code: -1, Signal: "killed", Reason: "out of memory"})
		synctest.Wait()
		if m := r.row("m0"); m.State != balance.StateFailed || m.Fault != "out of memory" {
			t.Errorf("row of a machine that was killed while suspended: %+v", m)
		}
		r.stop()
		want := []string{
			"starting m0@1", "ready m0 cold 1s", "starting m0@2", "ready m0 resume 1s", "starting m0@3",
			"ready m0 cold 1s", "exited m0@3: out of memory",
		}
		if diff := cmp.Diff(want, r.events); diff != "" {
			t.Errorf("events (-want +got)\n%s", diff)
		}
	})
}

func TestHealthAfterReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, machine.Config{}, habits{})
		r.start("m0")
		sick := func(sick bool) { r.d.sicken("m0", sick) }
		health := func(at string, h balance.Health, recent bool) {
			t.Helper()
			synctest.Wait()
			if m := r.row("m0"); m.Health != h || m.Recent != recent {
				t.Errorf("%s: %v, recent %v; want %v, %v", at, m.Health, m.Recent, h, recent)
			}
		}
		time.Sleep(sec)
		health("ready", balance.HealthPassing, true)
		sick(true)
		time.Sleep(6 * sec) // two checks, the second soon after the first
		health("two failures are not enough", balance.HealthPassing, true)
		time.Sleep(2 * sec)
		health("three are", balance.HealthFailing, true)
		time.Sleep(12 * sec)
		health("no longer recent", balance.HealthFailing, false)
		sick(false)
		time.Sleep(5 * sec)
		health("well again", balance.HealthPassing, false)
		r.stop()
		want := []string{"starting m0@1", "ready m0 cold 0s", "m0 failing: unwell", "m0 passing: <nil>"}
		if diff := cmp.Diff(want, r.events); diff != "" {
			t.Errorf("events (-want +got)\n%s", diff)
		}
	})
}

func TestRecentIsLearned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, machine.Config{}, habits{boot: 10 * sec})
		recent := func() (for_ time.Duration) {
			began := time.Now()
			for r.row("m0").Recent {
				time.Sleep(100 * time.Millisecond)
			}
			return time.Since(began).Round(sec)
		}
		r.start("m0")
		time.Sleep(10*sec + 100*time.Millisecond)
		if got := recent(); got != 20*sec {
			t.Errorf("recent for %v after a first boot, want 20s", got)
		}
		r.d.crash("m0", machine.Exit{Code: 1})
		synctest.Wait()
		r.start("m0")
		time.Sleep(10*sec + 100*time.Millisecond)
		if got := recent(); got != 10*sec {
			t.Errorf("recent for %v after boots of 10s", got)
		}
		r.stop()
	})
}

// A driver that blocks costs its own machine's start, and a machine that it starts too late is
// stopped.
func TestBlockedDriver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		block := make(chan struct{})
		r := newRig(t, machine.Config{BootCap: 5 * sec}, habits{blocks: block}, habits{})
		r.start("m0")
		r.start("m1")
		time.Sleep(sec)
		if m := r.row("m1"); m.State != balance.StateStarted {
			t.Errorf("another machine: %v", m.State)
		}
		time.Sleep(5*sec + machine.StopTimeout)
		if m := r.row("m0"); m.State != balance.StateFailed ||
			!strings.Contains(m.Fault, "did not come back") {
			t.Errorf("row: %v, %q", m.State, m.Fault)
		}
		if r.start("m0"); !strings.Contains(r.row("m0").Fault, "earlier call") {
			t.Errorf("a second call beside the first: %q", r.row("m0").Fault)
		}
		close(block)
		synctest.Wait()
		if _, stops, running := r.d.counts(); running != 1 || stops != 1 {
			t.Errorf("%d machines run, want only m1", running)
		}
		r.d.mu.Lock()
		r.d.habits["m0"] = habits{}
		r.d.mu.Unlock()
		r.start("m0")
		time.Sleep(sec)
		if m := r.row("m0"); m.State != balance.StateStarted {
			t.Errorf("when the driver is back: %v, %q", m.State, m.Fault)
		}
		r.stop()
	})
}

func TestRunEndsWhileStarting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, machine.Config{}, habits{boot: time.Hour}, habits{})
		r.start("m0")
		r.start("m1")
		time.Sleep(sec)
		r.stop()
		if m := r.row("m0"); m.State != balance.StateFailed || m.Fault != "shutting down" {
			t.Errorf("row: %v, %q", m.State, m.Fault)
		}
		if _, _, running := r.d.counts(); running != 1 || r.row("m1").State != balance.StateStarted {
			t.Errorf("%d machines run, want the one that was ready", running)
		}
		before := r.row("m0")
		if _, err := r.s.Start(t.Context(), before); err == nil ||
			r.row("m0") != before {
			t.Errorf("start after Run: %v, row %+v", err, r.row("m0"))
		}
	})
}

func TestStartWaitsForRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, machine.Config{}, habits{})
		s, err := machine.NewStarter(r.fleet, r.d, machine.Config{Check: machine.Check{Func: r.d.check}})
		if err != nil {
			t.Fatal(err)
		}
		short, cancel := context.WithTimeout(t.Context(), sec)
		defer cancel()
		if _, err := s.Start(short, r.row("m0")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("before Run: %v", err)
		}
		done := make(chan balance.StartAnswer)
		go func() {
			a, _ := s.Start(t.Context(), r.row("m0"))
			done <- a
		}()
		time.Sleep(sec)
		ctx, end := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()
		if a := <-done; a != balance.StartAccepted {
			t.Errorf("answer %v", a)
		}
		end()
		<-ended
		r.stop()
	})
}

func TestWatchIsCalledAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newFakeDriver()
		d.watchErr = errors.New("lost the connection")
		f, _ := balance.NewFleet(balance.FleetConfig{Node: "n", Region: "nrt"})
		failed := 0
		s, err := machine.NewStarter(
			f, d, machine.Config{Trace: machine.Trace{DriverFailed: func(error) { failed++ }}},
		)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()
		time.Sleep(2 * sec)
		d.mu.Lock()
		watches := d.watches
		d.mu.Unlock()
		if failed != 1 || watches != 1 {
			t.Errorf("%d failures, %d watches", failed, watches)
		}
		if err := s.Run(ctx); err == nil {
			t.Error("a second Run beside the first")
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// Edge and owner together: exactly one start, all requests answered; and the fault of a machine
// reaches the client.
func TestWholePath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, machine.Config{}, habits{boot: 45 * sec}, habits{boot: 45 * sec})
		r.fleet.Apply(
			balance.PutApp{
				App: balance.App{ID: "web", Autostart: true, Limits: balance.Limits{Soft: 50, Hard: 60}},
			},
		)
		b, _ := balance.New(r.fleet, balance.Config{})
		a, err := autostart.New(b, r.s, autostart.Config{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() { b.Run(ctx) })
		all.Go(func() { a.Run(ctx) })
		w := &edge{t, a}
		if errs := w.many(50, sec); len(errs) > 0 {
			t.Errorf("%d not answered; the first: %v", len(errs), errs[0])
		}
		if starts, _, _ := r.d.counts(); starts != 1 {
			t.Errorf("%d starts, want 1", starts)
		}
		if got := autotest.ColdBoots(t, a.Histories()["web"]); len(got) == 0 ||
			slices.Max(got).Round(sec) != 45*sec {
			t.Errorf("learned boots of %v, want 45s", got)
		}
		// Now all fail.
		for id := range r.d.habits {
			r.d.mu.Lock()
			r.d.habits[id] = habits{startErr: errors.New("exec: \"nonsense\": not found")}
			r.d.mu.Unlock()
			r.d.crash(id, machine.Exit{Code: 1, Reason: "exit status 1"})
		}
		synctest.Wait()
		_, err = w.get(ctx, 0)
		if class(t, err, autostart.ErrStart, true); !strings.Contains(
			err.Error(), `"nonsense": not found`,
		) {
			t.Errorf("error %v", err)
		}
		cancel()
		all.Wait()
		r.stop()
	})
}

func TestBadConfig(t *testing.T) {
	f, _ := balance.NewFleet(balance.FleetConfig{Node: "n", Region: "nrt"})
	d := newFakeDriver()
	for want, c := range map[string]machine.Config{
		"BootCap -1s":    {BootCap: -sec},
		"Timeout -1s":    {Check: machine.Check{Timeout: -sec}},
		`Path "healthz"`: {Check: machine.Check{Path: "healthz"}},
		`Path "/a b"`:    {Check: machine.Check{Path: "/a b"}},
		"Path \"/\\n\"":  {Check: machine.Check{Path: "/\n"}},
	} {
		if _, err := machine.NewStarter(f, d, c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one that names %s", err, want)
		}
	}
	if _, err := machine.NewStarter(nil, d, machine.Config{}); err == nil {
		t.Error("no fleet")
	}
	if _, err := machine.NewStarter(f, nil, machine.Config{}); err == nil {
		t.Error("no driver")
	}
	if _, err := autostart.New(nil, nil, autostart.Config{}); err == nil {
		t.Error("no balancer")
	}
}

// A machine that has ended, or has never become ready, leaves nothing of its run behind: a thousand
// sleeping apps would hold a thousand rows, contexts and channels. One that is started again
// meanwhile keeps the new run.
func TestAStarterHoldsNothingOfARunThatIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, machine.Config{},
			habits{boot: sec, ends: 5 * sec, end: machine.Exit{Reason: "exit status 0"}},
			habits{startErr: errors.New("no such image")})
		defer r.stop()
		runs := r.s.Runs
		for range 2 {
			r.start("m0")
			time.Sleep(2 * sec)
			synctest.Wait()
			if n := runs(); n != 1 {
				t.Errorf("%d runs while a machine runs, want 1", n)
			}
			time.Sleep(4 * sec)
			synctest.Wait()
			if n := runs(); n != 0 {
				t.Errorf("%d runs after it has ended, want none", n)
			}
		}
		r.start("m1")
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := runs(); n != 0 {
			t.Errorf("%d runs after a failed start, want none", n)
		}
	})
}
