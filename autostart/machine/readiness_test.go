package machine

import (
	"context"
	"errors"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/balance"
)

func TestPushedReadiness(t *testing.T) {
	for _, tc := range []struct {
		name  string
		early bool // the word comes before anybody waits
		say   func(p *Push)
		after time.Duration
		want  string
	}{
		{name: "ready", say: func(p *Push) { p.Ready("web", "m0", 1) }, want: "ready m0 cold 3s"},
		{name: "ready before it is waited for", early: true, say: func(p *Push) { p.Ready("web", "m0", 1) }, want: "ready m0 cold 0s"},
		{name: "never", say: func(p *Push) { p.Failed("web", "m0", 1, errors.New("no disk")) }, want: "failed m0: it says that it will not be ready: no disk"},
		{name: "never, and no reason", say: func(p *Push) { p.Failed("web", "m0", 1, nil) }, want: "failed m0: it says that it will not be ready: it is not ready and does not say why"},
		{name: "the first word counts", say: func(p *Push) { p.Ready("web", "m0", 1); p.Failed("web", "m0", 1, nil) }, want: "ready m0 cold 3s"},
		{name: "another start's word", say: func(p *Push) { p.Ready("web", "m0", 0); p.Ready("web", "m1", 1) }, after: 6 * sec, want: "failed m0: not ready after 5s"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &Push{}
				// looks would find nothing
				r := newRig(t, Config{Readiness: p, BootCap: 5 * sec}, habits{boot: time.Hour})
				defer r.stop()
				if tc.early {
					tc.say(p)
				}
				r.start("m0")
				if !tc.early {
					time.Sleep(3 * sec)
					tc.say(p)
				}
				time.Sleep(tc.after)
				synctest.Wait()
				if !slices.Contains(r.events, tc.want) {
					t.Errorf("%q, want %q among them", r.events, tc.want)
				}
			})
		})
	}
}

// telling is a driver that says when its machines are ready, of some of them.
type telling struct{ *fakeDriver }

func (d telling) Await(ctx context.Context, m balance.Machine) error {
	if m.ID == "m1" {
		return errors.ErrUnsupported
	}
	if m.ID == "m2" {
		panic("bug")
	}
	return nil
}

func TestDriverThatTells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(
			t, Config{Readiness: telling{}}, habits{boot: sec}, habits{boot: sec}, habits{boot: sec},
		)
		defer r.stop()
		for _, id := range []balance.MachineID{"m0", "m1", "m2"} {
			r.start(id)
		}
		time.Sleep(2 * sec)
		synctest.Wait()
		for _, want := range []string{"ready m0 cold 0s", "ready m1 cold 1s", "failed m2: it says that it will not be ready: panic: bug"} {
			if !slices.Contains(r.events, want) {
				t.Errorf("%q, want %q among them", r.events, want)
			}
		}
	})
	f, _ := balance.NewFleet(balance.FleetConfig{Node: "n", Region: "nrt"})
	if s, err := NewStarter(f, telling{newFakeDriver()}, Config{}); err != nil ||
		s.config.Readiness == nil {
		t.Errorf("a driver that tells is not asked: %v", err)
	}
}

func TestPushForgets(t *testing.T) {
	p := &Push{}
	p.Ready("web", "m", 7)
	if err := p.Await(t.Context(), balance.Machine{App: "web", ID: "m", Epoch: 6}); err == nil {
		t.Error("an older start is ready")
	}
	p.Forget("web", "m")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Await(ctx, balance.Machine{App: "web", ID: "m", Epoch: 7}); !errors.Is(
		err, context.Canceled,
	) ||
		len(p.announced) != 1 {
		t.Errorf("%v", err)
	}
}

// checkEnv makes this binary a check.
const checkEnv = "AUTOSTART_CHECK"

func TestMain(m *testing.M) {
	if os.Getenv(checkEnv) != "" && os.Getenv("EBB_ADDR") != "" {
		os.Stdout.WriteString(strings.Repeat("x", 1000) + "machine " + os.Getenv("EBB_MACHINE") + " of " + os.Getenv("EBB_APP") + " at " + os.Getenv("EBB_ADDR") + "\n")
		if os.Getenv("EBB_ADDR") != "good:1" {
			os.Exit(3)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestExecCheck(t *testing.T) {
	t.Setenv(checkEnv, "1")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := newProber(Check{Command: []string{self, "-v"}, Timeout: time.Minute})
	if err := p.look(t.Context(), balance.Machine{ID: "m", App: "web", Addr: "good:1"}); err != nil {
		t.Error(err)
	}
	err = p.look(t.Context(), balance.Machine{ID: "m", App: "web", Addr: "bad:1"})
	if _, answered := errors.AsType[unready](err); !answered ||
		!strings.HasSuffix(err.Error(), "machine m of web at bad:1") ||
		len(err.Error()) > 600 {
		t.Errorf("%v", err)
	}
	p.check.Command = []string{"no such program"}
	if err := p.look(t.Context(), balance.Machine{}); err == nil {
		t.Error("what does not exist passes")
	}
	if runtime.GOOS == "linux" { // one that blocks costs its time and no more
		p.check = Check{
			Command: []string{"/bin/sh", "-c", "exec sleep 1000"}, Timeout: 10 * time.Millisecond,
		}
		if err := p.look(t.Context(), balance.Machine{}); err == nil {
			t.Error("what blocks passes")
		}
	}
	for _, c := range []Check{{Command: []string{""}}, {Command: []string{"x"}, Path: "/"}} {
		if _, err := c.withDefaults(); err == nil || !strings.Contains(err.Error(), "Check.Command") {
			t.Errorf("%v", err)
		}
	}
}
