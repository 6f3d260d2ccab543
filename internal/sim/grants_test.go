package sim

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// TestGrantFigures shows the benefit of grants: twenty machines that take one request at a time, as
// GPUs do, four per owner, 10 ms away, seen by 1 to 20 edges that guess, or that get their slots
// granted. A request's wait is its time beyond its work and the round trip.
func TestGrantFigures(t *testing.T) {
	edges, loads, length := []int{1, 4, 20}, []int{50, 80, 90}, 60*sec
	if *full {
		length = 600 * sec
	}
	if raceEnabled {
		edges, loads, length = []int{4}, []int{80}, 20*sec
	}
	var b strings.Builder
	fmt.Fprintf(
		&b, "\n%-8s%-8s%26s%26s%26s\n%-16s", "edges", "load", "bounces per request", "mean wait",
		"p99 wait", "",
	)
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
				t.Errorf(
					"%s: %.3f bounces per request, without grants %.3f: want at most a third", w.Name,
					granted.BouncesPer(), guessed.BouncesPer(),
				)
			}
			if float64(granted.Mean) > 1.02*float64(guessed.Mean) {
				t.Errorf(
					"%s: requests take %v, without grants %v: want no more", w.Name, granted.Mean, guessed.Mean,
				)
			}
		}
	}
	t.Log(b.String())
}

// Two pools far from each other, with edges near each: slots granted far away are used only when
// the near pool has none.
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
		if granted.Ends[Served] != granted.Requests || granted.FarShare() > 0.03 ||
			float64(granted.Mean) > 1.05*float64(guessed.Mean) {
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

// poolKinds are the pools that [TestUpToWhichLimitSlotsAreGranted] compares: in all but the last
// the round trip to the owner is short compared with the work.
var poolKinds = []struct {
	name string
	far  bool
	make func(w *World)
}{
	{"near", false, func(*World) {}},
	{"late", false, func(w *World) { w.Reports = Reports{Every: sec, Delay: sec} }},
	{"bursts", false, func(w *World) { w.Burst, w.Load = Burst{3, 500 * ms, 1500 * ms}, 0.9*w.Load }},
	{"far", true, func(w *World) { w.RTT = Line(1, 60*ms, 0) }},
	{"short", true, func(w *World) { w.Work = Lognormal(50*ms, 1) }},
}

// The limit up to which slots are granted is neither too low nor too high. Grants win if a machine
// takes few requests and the round trip is short: hardly a bounce, and the slowest wait less. But a
// granted slot is empty for a round trip, from the machine's last answer to its next request, and
// guesses may overlap. With 4 slots per machine and a round trip of a fifth of the work or more,
// that costs a busy pool more than all its bounces. (It does with fewer slots as well: machines
// that take 1 to 3 at a time are assumed to be GPUs, whose work is long.) Above the limit both
// columns are the same; to see the results with grants, raise the limit in package balance and run
// the test with -full -v.
func TestUpToWhichLimitSlotsAreGranted(t *testing.T) {
	const last = 3 // that is granted
	hards, edges, loads, length := []int{last, last + 1}, []int{4}, []int{80, 90}, 30*sec
	kinds := poolKinds
	switch {
	case raceEnabled:
		hards, loads, length, kinds = []int{last}, []int{80}, 10*sec, kinds[:1]
	case *full:
		hards, edges, loads, length = []int{1, 2, 3, 4, 5, 6, 7, 8}, []int{4, 20}, []int{
			60, 80, 90,
		}, 60*sec
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n%-8s%5s%6s%6s%22s%22s%22s%22s%8s\n", "pool", "hard", "edges", "load",
		"bounces per request", "mean", "p50", "p99", "empty")
	for _, kind := range kinds {
		for _, hard := range hards {
			if !*full && kind.far != (hard > last) {
				continue // nothing is expected there
			}
			for _, n := range edges {
				for _, load := range loads {
					w := solo(n, load).build(func(time.Duration) time.Duration { return length })
					w.Name = fmt.Sprintf("%s, %d at a time, %d edges, %d %%", kind.name, hard, n, load)
					w.Slots, w.Limits = hard, balance.Limits{Soft: hard, Hard: hard}
					kind.make(&w)
					w.Grants = false
					guessed := mustRun(t, w, Balanced(ours, nil), *seed)
					empty := 0.0
					w.Grants, w.Every = true, []Round{emptySlots(&empty, 50*ms, length)}
					granted := mustRun(t, w, Balanced(ours, nil), *seed)
					fmt.Fprintf(&b, "%-8s%5d%6d%5d%%%11.3f%11.3f%11v%11v%11v%11v%11v%11v%7.1f%%\n", kind.name,
						hard, n, load, guessed.BouncesPer(), granted.BouncesPer(), guessed.Mean.Round(ms),
						granted.Mean.Round(ms), guessed.P50.Round(ms), granted.P50.Round(ms), guessed.P99.Round(ms),
						granted.P99.Round(ms), 100*empty)
					mean, p99 := float64(granted.Mean)/float64(guessed.Mean), float64(granted.P99)/float64(
						guessed.P99,
					)
					switch {
					case hard == last && !kind.far && (granted.BouncesPer() > guessed.BouncesPer()/2 || mean > 1.02 || p99 > 1.03):
						t.Errorf(
							"%s: %.3f bounces per request and %v, p99 %v, without grants %.3f and %v, p99 %v: want half of the bounces, and no longer",
							w.Name, granted.BouncesPer(), granted.Mean, granted.P99, guessed.BouncesPer(), guessed.Mean,
							guessed.P99,
						)
					case hard > last && mean > 1.1:
						t.Errorf(
							"%s: requests take %v, without grants %v: want no more, as far as such slots are granted",
							w.Name, granted.Mean, guessed.Mean,
						)
					}
				}
			}
		}
	}
	t.Log(b.String())
}

// emptySlots adds to share the fraction of all slots that are reserved and empty while a request
// waits somewhere.
func emptySlots(share *float64, period, length time.Duration) Round {
	return Round{period, func(s *Sim) {
		waits := false
		for i := range s.Edges() {
			waits = waits || s.Parked(i) > 0
		}
		if !waits || s.now > int64(length) {
			return
		}
		reserved := 0
		for i := range s.machines {
			reserved += s.machines[i].gate.Granted()
		}
		*share += float64(reserved) / float64(len(s.machines)*s.w.Limits.Hard) * float64(
			period,
		) / float64(length)
	}}
}
