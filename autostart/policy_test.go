package autostart

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/autostart/policy"
	"github.com/ebbkit/ebb/balance"
)

// policyFunc is a policy that is a func.
type policyFunc func(now time.Time, in policy.Input) policy.Decision

func (f policyFunc) Plan(now time.Time, in policy.Input) policy.Decision { return f(now, in) }

func (w *world) decided() []string { return w.noted("decided ") }

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
		w := newWorld(t, balance.App{ID: "web", Autostart: true}, Config{DryRun: true}, boot{takes: sec}, boot{takes: sec})
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
		calls, failed := 0, 0
		twice := policyFunc(func(now time.Time, in policy.Input) (d policy.Decision) {
			calls++
			if calls == 1 {
				panic("bug")
			}
			for range 3 { // again and again, and somebody else's
				d.Start = append(d.Start, *in.Machines[0], balance.Machine{ID: "x", App: "other"})
			}
			return d
		})
		w := newWorld(t, balance.App{ID: "web", Autostart: true}, Config{
			Policy: func(balance.AppID) policy.Policy { return twice },
			Trace:  Trace{PolicyFailed: func(balance.AppID, error) { failed++ }},
		}, boot{takes: sec})
		w.run()
		defer w.stop()
		if _, err := w.get(t.Context(), sec); err != nil {
			t.Fatal(err)
		}
		if failed != 1 || w.started() != 1 {
			t.Errorf("%d failures told, %d starts; want 1 and 1", failed, w.started())
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
		w := newWorld(t, balance.App{ID: "web", Autostart: true}, Config{}, boot{takes: sec, err: errors.New("no")})
		w.a.queue("web")
		w.a.Restore(all)
		w.run()
		defer w.stop()
		if got := coldBoots(t, w.a, "web"); !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
		w.a.queue("other")
		if got := w.a.Histories(); len(got) != 2 || !slices.Equal(coldBoots(t, w.a, "other"), want) {
			t.Errorf("%v, want both", got)
		}
	})
}
