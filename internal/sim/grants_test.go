package sim

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestGrantFigures shows what grants are good for: twenty machines that take one request at a time, as GPUs do, four to an
// owner 10 ms away, seen by 1 to 20 edges that guess, or that get their slots granted. A request's wait is what it takes
// beyond its work and the way there and back.
func TestGrantFigures(t *testing.T) {
	edges, loads, length := []int{1, 4, 20}, []int{50, 80, 90}, 60*sec
	if *full {
		length = 600 * sec
	}
	if raceEnabled {
		edges, loads, length = []int{4}, []int{80}, 20*sec
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n%-8s%-8s%26s%26s%26s\n%-16s", "edges", "load", "bounces per request", "mean wait", "p99 wait", "")
	for range 3 {
		fmt.Fprintf(&b, "%14s%12s", "guessed", "granted")
	}
	b.WriteString("\n")
	for _, n := range edges {
		for _, load := range loads {
			w := solo(n, load).build(func(time.Duration) time.Duration { return length })
			w.Name = fmt.Sprintf("solo-%d-%d", n, load)
			granted := mustRun(t, w, Balanced(ours, nil), *seed)
			w.Grants = false
			guessed := mustRun(t, w, Balanced(ours, nil), *seed)
			least := 200*ms + 10*ms
			fmt.Fprintf(&b, "%-8d%-8s%14.3f%12.3f%14v%12v%14v%12v\n", n, fmt.Sprint(load, " %"), guessed.BouncesPer(), granted.BouncesPer(),
				max(0, guessed.Mean-least).Round(ms), max(0, granted.Mean-least).Round(ms), (guessed.P99 - least).Round(ms), (granted.P99 - least).Round(ms))
			for _, r := range []*Result{&guessed, &granted} {
				if r.Ends[Served] != r.Requests {
					t.Errorf("%s: %d of %d served", r.World, r.Ends[Served], r.Requests)
				}
			}
			if n > 1 && granted.BouncesPer() > guessed.BouncesPer()/3 {
				t.Errorf("%s: %.3f bounces per request, without grants %.3f: want at most a third", w.Name, granted.BouncesPer(), guessed.BouncesPer())
			}
			if float64(granted.Mean) > 1.02*float64(guessed.Mean) {
				t.Errorf("%s: requests take %v, without grants %v: want no more", w.Name, granted.Mean, guessed.Mean)
			}
		}
	}
	t.Log(b.String())
}

// Two pools far from each other, edges near each: what is granted far away is used only when the near pool has nothing.
func TestGrantsStayNear(t *testing.T) {
	loads, length := []int{40, 80}, 120*sec
	if raceEnabled {
		loads, length = []int{80}, 20*sec
	}
	for _, load := range loads {
		w := solo(2, load).build(func(time.Duration) time.Duration { return length })
		w.Name, w.Regions, w.RTT = fmt.Sprintf("pools-%d", load), Uniform(2, 10, 2), Line(2, 2*ms, 150*ms)
		granted := mustRun(t, w, Balanced(ours, nil), *seed)
		w.Grants = false
		guessed := mustRun(t, w, Balanced(ours, nil), *seed)
		t.Logf("guessed: %v\ngranted: %v", guessed.String(), granted.String())
		if granted.Ends[Served] != granted.Requests || granted.FarShare() > 0.03 || float64(granted.Mean) > 1.05*float64(guessed.Mean) {
			t.Errorf("%.1f %% served far away, %d of %d served, in %v: without grants in %v",
				100*granted.FarShare(), granted.Ends[Served], granted.Requests, granted.Mean, guessed.Mean)
		}
		for i, m := range granted.Machines {
			if m.Most > 1 {
				t.Errorf("machine %d had %d in flight", i, m.Most)
			}
		}
	}
}
