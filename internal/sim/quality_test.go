package sim

import (
	"flag"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
)

var (
	full  = flag.Bool("full", false, "run worlds at their full length, with all rules and three seeds")
	only  = flag.String("world", "", "comma-separated worlds to run, at full length; hold no bounds")
	rules = flag.String("rule", "", "comma-separated rules to run, beside the oracle; hold no bounds")
	seeds = flag.Int("seeds", 0, "how many seeds to run; 0 means 1, or 3 with -full")
	seed  = flag.Uint64("seed", 1001, "the first seed")
)

// ours is the name of this library's rule with its defaults.
const ours = "ours"

func allRules() []Rule {
	return append([]Rule{Balanced(ours, nil), Balanced(ours, nil).Blind(), Balanced("leastload", balance.LeastLoad{})}, References()...)
}

// TestBalanceQuality checks our rule, in each world, against the bounds in bounds_test.go, and
// prints the results of all rules.
func TestBalanceQuality(t *testing.T) {
	chosen, share := worlds, 0.12
	names := []string{ours, "p2c-near", "oracle"}
	if raceEnabled { // each run has one goroutine and nothing to find: a look at some, too short to measure much
		chosen = slices.DeleteFunc(slices.Clone(worlds), func(w world) bool { return !slices.Contains(raceWorlds, w.name) })
		share = 0.02
		names = []string{ours, "oracle"}
	}
	n := 1
	if *full {
		share, names, n = 1, nil, 3
	}
	free := *only != "" || *rules != ""
	if *only != "" {
		share = 1
		chosen = nil
		for _, name := range strings.Split(*only, ",") {
			i := slices.IndexFunc(worlds, func(w world) bool { return w.name == name })
			if i < 0 {
				t.Fatalf("no world %q: want one of %s", name, worldNames())
			}
			chosen = append(chosen, worlds[i])
		}
	}
	if *rules != "" {
		names = append(strings.Split(*rules, ","), "oracle")
	}
	if *seeds > 0 {
		n = *seeds
	}
	var rs []Rule
	for _, r := range allRules() {
		if names == nil || slices.Contains(names, r.Name) {
			rs = append(rs, r)
		}
	}
	if len(rs) < len(names) {
		t.Fatalf("no such rules %v: want some of %s", names, ruleNames())
	}
	results := study(t, chosen, rs, share, *seed, n)
	report(t, chosen, rs, results)
	if !free {
		hold(t, chosen, rs, results)
	}
}

// raceWorlds are those that run under the race detector.
var raceWorlds = []string{"steady-80", "flash", "lossy", "hard-queue", "one-process", "solo-4-80", "dark", "crashes"}

func worldNames() string {
	var names []string
	for _, w := range worlds {
		names = append(names, w.name)
	}
	return strings.Join(names, ", ")
}

func ruleNames() string {
	var names []string
	for _, r := range allRules() {
		names = append(names, r.Name)
	}
	return strings.Join(names, ", ")
}

// study runs each rule in each world with n seeds, as many runs at a time as there are processors.
// The results are by world, rule and seed.
func study(t *testing.T, chosen []world, rs []Rule, share float64, first uint64, n int) [][][]Result {
	out := make([][][]Result, len(chosen))
	type job struct{ w, r, k int }
	var jobs []job
	for w := range chosen {
		out[w] = make([][]Result, len(rs))
		for r := range rs {
			seeds := n
			if !inAllSeeds(rs[r].Name) {
				seeds = 1
			}
			out[w][r] = make([]Result, seeds)
			for k := range seeds {
				jobs = append(jobs, job{w, r, k})
			}
		}
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	var requests atomic.Int64
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(jobs) {
					return
				}
				j := jobs[i]
				w := chosen[j.w].build(func(full time.Duration) time.Duration {
					return time.Duration(share * float64(full))
				})
				w.Name = chosen[j.w].name
				r, err := Run(w, rs[j.r], first+uint64(j.k))
				if err != nil {
					t.Error(err)
				}
				out[j.w][j.r][j.k] = r
				requests.Add(int64(r.Requests))
			}
		})
	}
	wg.Wait()
	t.Logf("%d runs, %d requests in %v", len(jobs), requests.Load(), time.Since(start).Round(10*time.Millisecond))
	return out
}

// inAllSeeds reports whether a rule is run with every seed; the others are only there to compare
// with.
func inAllSeeds(rule string) bool { return *rules != "" || rule == ours || rule == "oracle" }

// figures are the results of a rule in a world, over the seeds.
type figures struct{ mean, p99, bounces, unserved, far float64 }

func figuresOf(rs, oracle []Result) figures {
	var f figures
	n := float64(len(rs))
	for k := range rs {
		r, o := &rs[k], &oracle[k]
		f.mean += float64(r.Mean) / float64(o.Mean) / n
		f.p99 += float64(r.P99) / float64(o.P99) / n
		f.bounces += r.BouncesPer() / n
		f.unserved += r.UnservedShare() / n
		f.far += r.FarShare() / n
	}
	return f
}

func oracleAt(rs []Rule) int {
	return slices.IndexFunc(rs, func(r Rule) bool { return r.Name == "oracle" })
}

// report prints a table for each figure, and the geometric means and the worst.
func report(t *testing.T, chosen []world, rs []Rule, results [][][]Result) {
	oracle := oracleAt(rs)
	for _, table := range []struct {
		title  string
		format string
		ratio  bool
		of     func(figures) float64
	}{
		{"mean latency / oracle", "%11.3f", true, func(f figures) float64 { return f.mean }},
		{"p99 latency / oracle", "%11.3f", true, func(f figures) float64 { return f.p99 }},
		{"bounces per request", "%11.4f", false, func(f figures) float64 { return f.bounces }},
		{"not served, in percent", "%11.4f", false, func(f figures) float64 { return 100 * f.unserved }},
		{"served outside the nearest region, in percent", "%11.2f", false, func(f figures) float64 { return 100 * f.far }},
	} {
		var b strings.Builder
		fmt.Fprintf(&b, "%s\n%-13s", table.title, "")
		for _, r := range rs {
			fmt.Fprintf(&b, "%11s", r.Name)
		}
		b.WriteString("\n")
		sums, worst := make([]float64, len(rs)), make([]float64, len(rs))
		for w := range chosen {
			fmt.Fprintf(&b, "%-13s", chosen[w].name)
			for r := range rs {
				v := table.of(figuresOf(results[w][r], results[w][oracle]))
				fmt.Fprintf(&b, table.format, v)
				if table.ratio {
					v = math.Log(v)
				}
				sums[r] += v / float64(len(chosen))
				if worst[r] = max(worst[r], v); w == 0 {
					worst[r] = v
				}
			}
			b.WriteString("\n")
		}
		name := "mean"
		if table.ratio {
			name = "geometric"
			for r := range rs {
				sums[r], worst[r] = math.Exp(sums[r]), math.Exp(worst[r])
			}
		}
		for _, line := range []struct {
			name string
			of   []float64
		}{{name, sums}, {"worst", worst}} {
			fmt.Fprintf(&b, "%-13s", line.name)
			for _, v := range line.of {
				fmt.Fprintf(&b, table.format, v)
			}
			b.WriteString("\n")
		}
		t.Log(b.String())
	}
	if len(chosen) <= 3 {
		for w := range chosen {
			for r := range rs {
				for k := range results[w][r] {
					t.Log(results[w][r][k].String())
				}
			}
		}
	}
}
