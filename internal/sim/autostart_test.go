package sim

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ebbkit/ebb/autostart/policy"
	"github.com/ebbkit/ebb/autostart/policytest"
)

// wakesRule is a rule of the table.
type wakesRule struct {
	name   string
	policy func(edge int) policy.Policy
}

var wakesRules = []wakesRule{
	{"ours", func(int) policy.Policy { return new(policy.Planner) }},
	{"ours-hedged", func(int) policy.Policy { return &policy.Planner{Hedge: true} }},
	{"synchronous", func(e int) policy.Policy { return policytest.NewSynchronous(0, uint64(e)+1) }},
	{"asynchronous", func(e int) policy.Policy { return policytest.NewAsynchronous(0, uint64(e)+1) }},
}

// TestAutostartQuality prints a table of worlds and rules, and checks what is promised for ours:
//
//   - the number of machines started per machine needed is 1, however long boots take and whether
//     nodes talk or not;
//   - with 1 % of starts dying silently it is at most 1.02;
//   - a crowd of ten times the load has its machines within 1.2 times the longest boot among them.
//
// Hedged starts have a column of their own.
func TestAutostartQuality(t *testing.T) {
	medians := []time.Duration{300 * time.Millisecond, 2 * time.Second, 10 * time.Second, 30 * time.Second, 60 * time.Second}
	wakes, rules := 200, wakesRules
	switch {
	case raceEnabled: // each run has one goroutine and no races: a short run is enough
		medians, wakes, rules = medians[:1], 4, rules[:2]
	case !*full:
		medians, wakes = []time.Duration{300 * time.Millisecond, 30 * time.Second}, 8
	}
	type line struct {
		name string
		w    Wakes
		most float64 // of ours: started per machine needed
		slow float64 // of ours: excess of the median; 0 is not checked
	}
	var lines []line
	for _, boot := range medians {
		for _, sigma := range []float64{0.3, 0.7} {
			for _, edges := range []int{1, 20} {
				name := fmt.Sprintf("boot=%v/sigma=%v/nodes=%d", boot, sigma, edges)
				lines = append(lines, line{name, Wakes{Boot: boot, Sigma: sigma, Edges: edges, Soft: 25, Demand: 20, Wakes: wakes}, 1, 1.2})
			}
		}
		lines = append(lines, line{fmt.Sprintf("boot=%v/crowd/nodes=1", boot), Wakes{Boot: boot, Sigma: 0.3, Edges: 1, Soft: 20, Demand: 200, Before: 20, Wakes: wakes / 4}, 1, 1.2})
		if boot >= 2*time.Second { // what others have is heard 200 ms late, and rows are as late
			lines = append(lines, line{fmt.Sprintf("boot=%v/crowd/nodes=20", boot), Wakes{Boot: boot, Sigma: 0.3, Edges: 20, Soft: 20, Demand: 200, Before: 20, Told: true, Wakes: wakes / 4}, 1, 1.3})
		}
	}
	if !raceEnabled {
		lines = append(lines, line{"boot=10s/dead=1%/nodes=1", Wakes{Boot: 10 * time.Second, Sigma: 0.3, Edges: 1, Soft: 25, Demand: 20, Dead: 0.01, Wakes: max(5*wakes, 100)}, 1.02, 0})
	}
	if *full {
		lines = append(lines, line{"boot=10s/dead=1%/nodes=20", Wakes{Boot: 10 * time.Second, Sigma: 0.3, Edges: 20, Soft: 25, Demand: 20, Dead: 0.01, Wakes: 2 * wakes}, 1.02, 0})
	}

	results := make([]WakesResult, len(lines)*len(rules))
	var wg sync.WaitGroup
	var next atomic.Int64
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(results)); i = next.Add(1) - 1 {
				w := lines[i/int64(len(rules))].w
				w.Policy = rules[i%int64(len(rules))].policy
				results[i] = RunWakes(w, 3)
			}
		})
	}
	wg.Wait()

	var table strings.Builder
	fmt.Fprintf(&table, "\n%-36s %-13s %8s %8s %5s %9s %9s %8s\n", "world", "rule", "started", "hedged", "died", "p50", "max", "excess")
	for i, l := range lines {
		for k, rule := range rules {
			r := results[i*len(rules)+k]
			excess := 0.0
			if n := len(r.Excess); n > 0 {
				excess = r.Excess[n/2]
			}
			fmt.Fprintf(&table, "%-36s %-13s %8.3f %8.3f %5d %9v %9v %8.2f\n", l.name, rule.name, r.Ratio(), float64(r.Hedged)/float64(r.Needed), r.Died,
				r.Served[len(r.Served)/2].Round(10*time.Millisecond), r.Served[len(r.Served)-1].Round(10*time.Millisecond), excess)
			if !strings.HasPrefix(rule.name, "ours") {
				continue
			}
			if ratio := r.Ratio(); ratio > l.most || ratio < 1 {
				t.Errorf("%s: %s starts %.3f machines for each that is needed, want 1 to %.2f", l.name, rule.name, ratio, l.most)
			}
			if l.slow > 0 && excess > l.slow {
				t.Errorf("%s: with %s it takes %.2f of the longest boot, want at most %.2f", l.name, rule.name, excess, l.slow)
			}
		}
	}
	t.Log(table.String())
}
