package machine_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/balance"
)

func TestPushedReadiness(t *testing.T) {
	for _, tc := range []struct {
		name  string
		early bool // the report comes before anybody waits
		say   func(p *machine.Push)
		after time.Duration
		want  string
	}{
		{name: "ready", say: func(p *machine.Push) { p.Ready("web", "m0", 1) }, want: "ready m0 cold 3s"},
		{name: "ready before it is waited for", early: true, say: func(p *machine.Push) { p.Ready("web", "m0", 1) }, want: "ready m0 cold 0s"},
		{name: "never", say: func(p *machine.Push) { p.Failed("web", "m0", 1, errors.New("no disk")) }, want: "failed m0: it says that it will not be ready: no disk"},
		{name: "never, and no reason", say: func(p *machine.Push) { p.Failed("web", "m0", 1, nil) }, want: "failed m0: it says that it will not be ready: it is not ready and does not say why"},
		{name: "the first word counts", say: func(p *machine.Push) { p.Ready("web", "m0", 1); p.Failed("web", "m0", 1, nil) }, want: "ready m0 cold 3s"},
		{name: "another start's word", say: func(p *machine.Push) { p.Ready("web", "m0", 0); p.Ready("web", "m1", 1) }, after: 6 * sec, want: "failed m0: not ready after 5s"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &machine.Push{}
				// looks would find nothing
				r := newRig(t, machine.Config{Readiness: p, BootCap: 5 * sec}, habits{boot: time.Hour})
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

// telling is a driver that says when some of its machines are ready.
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
			t, machine.Config{Readiness: telling{}}, habits{boot: sec}, habits{boot: sec}, habits{boot: sec},
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
}

func TestPushForgets(t *testing.T) {
	p := &machine.Push{}
	p.Ready("web", "m", 7)
	if err := p.Await(t.Context(), balance.Machine{App: "web", ID: "m", Epoch: 6}); err == nil {
		t.Error("an older start is ready")
	}
	p.Forget("web", "m")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	m := balance.Machine{App: "web", ID: "m", Epoch: 7}
	if err := p.Await(ctx, m); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
