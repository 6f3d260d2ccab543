package waitroom

import (
	"slices"
	"testing"
	"time"
)

// A story of three apps, with a time of its own.
func TestAgenda(t *testing.T) {
	var g Agenda[string]
	now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	ready := func(want ...string) {
		t.Helper()
		if got := g.Ready(now, nil); !slices.Equal(got, want) {
			t.Errorf("at %v: %q are ready, want %q", now, got, want)
		}
	}
	wait := func(want time.Duration, due bool) {
		t.Helper()
		if d, ok := g.Wait(now); d != want || ok != due {
			t.Errorf("wait %v, %v; want %v, %v", d, ok, want, due)
		}
	}
	wait(0, false)
	g.Ask("a")
	g.Ask("b")
	g.Ask("a") // once is enough
	wait(0, true)
	ready("a", "b")
	wait(0, false)
	g.Decided("a", now, time.Millisecond, true, false)
	g.Decided("b", now, 0, true, true) // it left somebody out
	g.Ask("a")
	g.Ask("b")
	ready("b")
	wait(10*time.Millisecond, true) // ten times what the decision took
	now = now.Add(4 * time.Millisecond)
	ready()
	wait(6*time.Millisecond, true)
	now = now.Add(6 * time.Millisecond)
	ready("a")

	// Ticks look at those that are awake: those that were asked for, and those that were woken.
	g.Wake("c")
	tick := func(looks map[string]Look, want ...string) {
		t.Helper()
		var looked []string
		g.Tick(func(a string) Look { looked = append(looked, a); return looks[a] })
		if slices.Sort(looked); !slices.Equal(looked, want) {
			t.Errorf("a tick looks at %q, want %q", looked, want)
		}
	}
	tick(map[string]Look{"a": LookRest, "b": LookAsk}, "a", "b", "c")
	ready("b")
	tick(nil, "b", "c")
	g.Ask("b")
	tick(map[string]Look{"b": LookRest, "c": LookRest}, "b", "c")
	tick(nil, "b") // what is due does not rest
	g.Forget("b")
	g.Decided("b", now, time.Second, true, false)
	tick(nil)
	wait(0, false)

	// The clock is set back.
	g.Ask("a")
	ready("a")
	g.Decided("a", now, time.Millisecond, false, false)
	now = now.Add(-time.Hour)
	g.Ask("a")
	if d, ok := g.Wait(now); !ok || d > 2*time.Hour {
		t.Errorf("wait %v, %v after the clock was set back", d, ok)
	}
}
