package autostart

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/google/go-cmp/cmp"
)

// policyFunc is a policy that is a func.
type policyFunc func(now time.Time, in Input) Decision

func (f policyFunc) Plan(now time.Time, in Input) Decision { return f(now, in) }

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
		twice := policyFunc(func(now time.Time, in Input) (d Decision) {
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
			Policy: func(balance.AppID) Policy { return twice },
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

// The rules of the modelled proxy, and what is wrong with them.
func TestWindowedRules(t *testing.T) {
	for _, tc := range []struct {
		name  string
		p     Policy
		steps []step
	}{
		{"synchronous: one per wait", NewSynchronous(0, 0), []step{
			{parked: 1, do: "start a"}, {at: sec, see: "a starting", parked: 1}, {at: 19 * sec, parked: 1}, {at: 20 * sec, parked: 1, do: "start b"}, {at: 40 * sec, see: "b starting", parked: 1, do: "start c"}, {at: 41 * sec, see: "a started", inFlight: 1}}},
		{"synchronous: as many as wait", NewSynchronous(0, 0), []step{{parked: 25, do: "start a b c"}, {at: sec, parked: 25}}},
		{"asynchronous: one per window", NewAsynchronous(0, 0), []step{
			{parked: 25, do: "start a"}, {at: sec, see: "a starting", parked: 25}, {at: 20 * sec, parked: 25, do: "start b"}, {at: 21 * sec, see: "b started", inFlight: 25}, {at: 40 * sec, inFlight: 25, do: "start c"}}},
		{"asynchronous: below soft nothing is started, at soft it is", NewAsynchronous(0, 0), []step{{see: "a started", inFlight: 9}, {inFlight: 10, do: "start b"}}},
		{"a window of one's own", NewAsynchronous(5*sec, 0), []step{{parked: 1, do: "start a"}, {at: 4 * sec, see: "a starting", parked: 1}, {at: 5 * sec, parked: 1, do: "start b"}}},
		{"what is refused was never asked for", NewSynchronous(0, 0), []step{{parked: 1, do: "start a", refused: true}, {at: sec, parked: 1, do: "start a"}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newStory(t, balance.App{Limits: balance.Limits{Soft: 10}}, "nrt: a b c")
			s.policy = tc.p
			for i, st := range tc.steps {
				s.see(st.see)
				if got := s.plan(st.at, st.inFlight, st.parked); got != st.do {
					t.Fatalf("step %d at %v: %q, want %q", i, st.at, got, st.do)
				}
				for _, m := range s.last.Start {
					a := Answer{At: t0.Add(st.at), Machine: m, Start: balance.StartAccepted}
					if st.refused {
						a.Start = balance.StartRefused
					}
					s.answers = append(s.answers, a)
				}
			}
		})
	}
}

func TestHistoryRoundTrip(t *testing.T) {
	s := newStory(t, balance.App{BootHint: 7 * sec}, "nrt: a b c d")
	s.plan(0, 0, 0)
	for i := range 40 {
		s.see("a starting")
		s.plan(time.Duration(100*i)*sec, 0, 1)
		s.see("a started")
		s.plan(time.Duration(100*i)*sec+time.Duration(i)*sec, 0, 1)
		s.see([]string{"a stopped", "a suspended"}[i%2])
		s.plan(time.Duration(100*i+90)*sec, 0, 0)
	}
	h := s.p.History()
	text, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	var back History
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	p := NewPlanner(false)
	p.Restore(back)
	if diff := cmp.Diff(h, p.History(), cmp.AllowUnexported(Boots{})); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	again, _ := json.Marshal(p.History())
	if string(again) != string(text) {
		t.Errorf("%s\nafter a round trip: %s", text, again)
	}
	want, got := s.p.Boots(), p.Boots()
	got.Hint = 7 * sec
	if want.Expected() != got.Expected() || want.Suspect() != got.Suspect() {
		t.Errorf("%v and %v before, %v and %v after", want.Expected(), want.Suspect(), got.Expected(), got.Suspect())
	}
	// What comes from elsewhere may be anything.
	var b Boots
	for _, text := range []string{`{"lastNs":[-5,7]}`, `{"hintNs":-1,"lastNs":[7]}`} {
		if err := json.Unmarshal([]byte(text), &b); err != nil || b.Hint != 0 || b.Longest() != 7 {
			t.Errorf("%s: %+v, %v", text, b, err)
		}
	}
	if json.Unmarshal([]byte(`{"lastNs":"x"}`), &b) == nil {
		t.Error("nonsense is taken")
	}
}

func TestRestoreBeforeAppsAreKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var learned Boots
		learned.Learn(3 * sec)
		all := map[balance.AppID]History{"web": {Boots: []HistoryBoots{{All: true, Boots: learned}}}, "other": {Boots: []HistoryBoots{{All: true, Boots: learned}}}}
		w := newWorld(t, balance.App{ID: "web", Autostart: true}, Config{}, boot{takes: sec, err: errors.New("no")})
		w.a.queue("web")
		w.a.Restore(all)
		w.run()
		defer w.stop()
		if b := w.a.Boots("web"); b.Expected() != 3*sec {
			t.Errorf("expected %v, want 3s", b.Expected())
		}
		w.a.queue("other")
		if got := w.a.Histories(); len(got) != 2 || got["other"].Boots[0].Boots.Expected() != 3*sec {
			t.Errorf("%v, want both", got)
		}
	})
}
