package autostart

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/autotest"
	"github.com/ebbkit/ebb/autostart/policy"
	"github.com/ebbkit/ebb/balance"
)

func (w *world) decided() []string { return w.noted("decided ") }

// policyFunc is a policy that is a func.
type policyFunc func(now time.Time, in policy.Input) policy.Decision

func (f policyFunc) Plan(now time.Time, in policy.Input) policy.Decision { return f(now, in) }

// noted returns the events of that kind, without its name.
func (w *world) noted(kind string) (es []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if e, ok := strings.CutPrefix(e, kind); ok {
			es = append(es, e)
		}
	}
	return es
}

func TestDryRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(
			t, balance.App{ID: "web", Autostart: true}, Config{DryRun: true}, boot{takes: sec},
			boot{takes: sec},
		)
		w.run()
		defer w.stop()
		got := make(chan error, 1)
		go func() {
			_, err := w.get(t.Context(), sec)
			got <- err
		}()
		time.Sleep(3 * sec)
		if n := len(w.decided()); n != 1 || w.asks != 0 {
			t.Fatalf("%d decisions and %d asked, want 1 and 0", n, w.asks)
		}
		first := canonical("web", 2)[0] // somebody else starts it
		app, _ := w.fleet.App("web")
		m, _ := app.Machine(first)
		token, _ := w.fleet.Gate("web", first).Start(m.Epoch)
		w.fleet.Gate("web", first).Ready(token)
		if err := <-got; err != nil {
			t.Fatal(err)
		}
	})
}

func TestPolicyThatMisbehaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		twice := policyFunc(func(now time.Time, in policy.Input) (d policy.Decision) {
			for range 3 { // again and again, and somebody else's
				d.Start = append(d.Start, *in.Machines[0], balance.Machine{ID: "x", App: "other"})
			}
			return d
		})
		w := newWorld(t, balance.App{ID: "web", Autostart: true}, Config{
			Policy: func(balance.AppID) policy.Policy { return twice },
		}, boot{takes: sec})
		w.run()
		defer w.stop()
		if _, err := w.get(t.Context(), sec); err != nil {
			t.Fatal(err)
		}
		if n := w.started(); n != 1 {
			t.Errorf("%d starts; want 1", n)
		}
	})
}

func TestRestoreBeforeAppsAreKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var learned policy.History
		text := `{"boots":[{"all":true,"boots":{"lastNs":[3000000000]}}]}`
		if err := json.Unmarshal([]byte(text), &learned); err != nil {
			t.Fatal(err)
		}
		all := map[balance.AppID]policy.History{"web": learned, "other": learned}
		want := []time.Duration{3 * sec}
		w := newWorld(
			t, balance.App{ID: "web", Autostart: true}, Config{}, boot{takes: sec, err: errors.New("no")},
		)
		w.a.roomOf("web")
		w.a.Restore(all)
		w.run()
		defer w.stop()
		if got := autotest.ColdBoots(t, w.a.Histories()["web"]); !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
		w.a.roomOf("other")
		if got := w.a.Histories(); len(got) != 2 ||
			!slices.Equal(autotest.ColdBoots(t, w.a.Histories()["other"]), want) {
			t.Errorf("%v, want both", got)
		}
	})
}

// eager is a policy that wants all there is, each time it is asked.
type eager struct{}

func (eager) Plan(_ time.Time, in policy.Input) (d policy.Decision) {
	d.App, d.Wait = in.App.ID, time.Second
	for _, m := range in.Machines {
		d.Start, d.Recall = append(d.Start, *m), append(d.Recall, *m)
	}
	return d
}

// countingOwner counts what it is asked for, and does what the test says.
type countingOwner struct {
	mu      sync.Mutex
	starts  map[balance.MachineID]int
	recalls int
	start   func(m balance.Machine) (balance.StartAnswer, error)
}

func (o *countingOwner) Start(_ context.Context, m balance.Machine) (balance.StartAnswer, error) {
	o.mu.Lock()
	o.starts[m.ID]++
	o.mu.Unlock()
	return o.start(m)
}

func (o *countingOwner) Recall(context.Context, balance.Machine) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.recalls++
	return nil
}

// Whatever a policy of one's own says, what must not be is not asked for.
func TestBoundsHoldWhateverAPolicySays(t *testing.T) {
	accept := func(balance.Machine) (balance.StartAnswer, error) { return balance.StartAccepted, nil }
	for _, c := range []struct {
		name     string
		app      balance.App
		cordon   balance.Cordon
		owner    func(*balance.Fleet) func(balance.Machine) (balance.StartAnswer, error)
		most     int // starts in all
		machines int // that were asked for, at most
	}{
		{"autostart is off", balance.App{Max: 1}, 0, nil, 0, 0},
		{"the maximum", balance.App{Autostart: true, Max: 1}, 0, nil, 1, 1},
		{"a hard cordon", balance.App{Autostart: true}, balance.CordonHard, nil, 0, 0},
		{"once each until it shows", balance.App{Autostart: true}, 0, nil, 4, 4},
		{"back-off of what fails", balance.App{Autostart: true}, 0, func(f *balance.Fleet) func(balance.Machine) (balance.StartAnswer, error) {
			return func(m balance.Machine) (balance.StartAnswer, error) {
				g := f.Gate(m.App, m.ID)
				token, a := g.Start(m.Epoch)
				g.Fail(token)
				return a, nil
			}
		}, 4 * 5, 4}, // at once, and after 0.4, 0.8, 1.6 and 3.2 s: within 9 s
		{"back-off of owners that are not there", balance.App{Autostart: true}, 0, func(*balance.Fleet) func(balance.Machine) (balance.StartAnswer, error) {
			return func(balance.Machine) (balance.StartAnswer, error) { return 0, context.DeadlineExceeded }
		}, 4 * 5, 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, err := balance.NewFleet(balance.FleetConfig{Node: "n", Region: "nrt"})
				if err != nil {
					t.Fatal(err)
				}
				c.app.ID = "web"
				f.Apply(balance.PutApp{App: c.app})
				for _, id := range []balance.MachineID{"a", "b", "c", "d"} {
					if c.cordon != 0 { // of another owner: a gate has no hard cordon
						f.Apply(
							balance.PutMachine{
								Machine: balance.Machine{ID: id, App: "web", Region: "nrt", Owner: "o", Cordon: c.cordon},
								Version: balance.Version{Incarnation: 1, Seq: 1},
							},
						)
					} else if _, err := f.Host(balance.Machine{ID: id, App: "web", Region: "nrt"}); err != nil {
						t.Fatal(err)
					}
				}
				b, err := balance.New(f, balance.Config{})
				if err != nil {
					t.Fatal(err)
				}
				o := &countingOwner{starts: map[balance.MachineID]int{}, start: accept}
				if c.owner != nil {
					o.start = c.owner(f)
				}
				a, err := New(b, o,
					Config{MaxWait: 9 * time.Second, Policy: func(balance.AppID) policy.Policy { return eager{} }})
				if err != nil {
					t.Fatal(err)
				}
				ctx, stop := context.WithTimeout(t.Context(), 9*time.Second)
				defer stop()
				go b.Run(ctx)
				demand := make(chan struct{})
				defer func() { <-demand }()
				go func() {
					defer close(demand)
					for ctx.Err() == nil { // there is demand all the time
						a.Acquire(ctx, &balance.Request{App: "web"})
						time.Sleep(10 * time.Millisecond)
					}
				}()
				if err := a.Run(ctx); err != nil {
					t.Error(err)
				}
				o.mu.Lock()
				defer o.mu.Unlock()
				total := 0
				for _, n := range o.starts {
					total += n
				}
				if total > c.most || len(o.starts) > c.machines || total == 0 && c.most > 0 || o.recalls > 0 {
					t.Errorf(
						"%d starts %v and %d recalls, want at most %d starts of %d machines, and at least one where any",
						total, o.starts, o.recalls, c.most, c.machines,
					)
				}
			})
		})
	}
}
