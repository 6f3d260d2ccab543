package sim

import (
	"math"
	"slices"
	"testing"
)

// bound is the limit for our rule in one world. A zero means none at all; mean and p99 are in units
// of the oracle's.
type bound struct {
	mean     float64
	p99      float64
	bounces  float64 // per request
	unserved float64 // share
	far      float64 // share
}

// bounds leave room for the noise of short runs and of other seeds: about a tenth above the results
// of full runs, and more where few events matter. Tighten them when the balancer gets better; this
// table is the only place.
var bounds = map[string]bound{
	"steady-20":   {1.05, 1.05, 0, 0, 0.01},
	"steady-80":   {1.15, 1.25, 0, 0, 0.02},
	"hot":         {1.05, 1.05, 0.006, 0, 0.10}, // ahead of the oracle, which takes the last cheap slot and no thought for the next
	"flash":       {1.35, 1.6, 0, 0, 0.15},
	"bursty":      {1.35, 1.6, 0, 0, 0.10},
	"uneven":      {1.35, 1.6, 0, 0, 0.02}, // slow machines are only told by their load
	"tail":        {1.2, 1.3, 0, 0, 0.02},
	"bimodal":     {1.35, 1.3, 0, 0, 0.05}, // what is behind a long one cannot be seen
	"fifo":        {1.35, 1.5, 0, 0, 0.05}, // as above
	"late-200ms":  {1.15, 1.2, 0.005, 0, 0.02},
	"late-500ms":  {1.15, 1.2, 0.005, 0, 0.02},
	"late-1s":     {1.15, 1.2, 0.005, 0, 0.02},
	"late-2s":     {1.15, 1.2, 0.005, 0, 0.02},
	"lossy":       {1.15, 1.2, 0.005, 0, 0.02},
	"zipf":        {1.45, 1.6, 0, 0, 0.02}, // small edges hear little of what the large ones do
	"crowd":       {2.15, 2.7, 0, 0, 0},    // own counts are 0 and what is known of others is of the last visit
	"hard-reject": {1.2, 1.3, 0.02, 0, 0.05},
	"hard-queue":  {1.15, 1.2, 0.4, 0, 0.15}, // a freed slot is told to one edge, and another takes it
	"one-process": {1.1, 1.2, 0, 0.01, 0},    // what crashes is lost
	"solo-1-50":   {1.06, 1.06, 0.01, 0, 0},  // owners of four machines each, which grant their slots
	"solo-1-80":   {1.1, 1.1, 0.01, 0, 0},
	"solo-4-50":   {1.06, 1.06, 0.08, 0, 0},
	"solo-4-80":   {1.15, 1.2, 0.12, 0, 0},
	"solo-20-50":  {1.15, 1.2, 0.1, 0, 0},
	"solo-20-80":  {1.35, 1.5, 0.1, 0, 0},
	"sparse":      {1.35, 1.5, 0, 0, 0.30},
	"wrong-rtt":   {1.3, 1.4, 0, 0, 0.15},
	"grey":        {1.3, 1.5, 0, 0, 0.03},
	"sick":        {1.2, 1.3, 0, 0.005, 0},   // a short run has as many first failures as a long one
	"sick-pair":   {1.05, 1.05, 0, 0.005, 0}, // a short run has as many first failures as a long one
	"poison":      {1.2, 1.3, 0, 0, 0.02},
	"sick-poison": {1.2, 1.3, 0, 0.02, 0.02}, // avoided, and not ejected
	"dark":        {1.3, 1.5, 0, 0.004, 0.03},
	"deploy":      {1.1, 1.1, 0.05, 0, 0.40},    // a machine that bounced is not asked again for long
	"crashes":     {1.3, 1.4, 0.02, 0.01, 0.03}, // what runs on a machine is lost with it
	"huge":        {1.15, 1.2, 0, 0, 0.02},
	"nodes-20":    {1.05, 1.06, 0.01, 0, 0},
	"nodes-20-2s": {1.05, 1.06, 0.006, 0, 0},
	"nodes-100":   {1.08, 1.08, 0.04, 0, 0},
}

// overall is the limit for our rule over all worlds: the geometric mean of mean latency over the
// oracle's, and the bounces per request, with equal weights.
var overall = struct{ mean, bounces float64 }{1.2, 0.05}

// fewest is the number of measured requests below which a run says nothing about a p99 or about
// rare failures.
const fewest = 3000

func hold(t *testing.T, chosen []world, rs []Rule, results [][][]Result) {
	mine := slices.IndexFunc(rs, func(r Rule) bool { return r.Name == ours })
	oracle := oracleAt(rs)
	geometric := make([]float64, len(rs)) // logarithms
	bounces := 0.0
	for w := range chosen {
		b, ok := bounds[chosen[w].name]
		if !ok {
			t.Errorf("%s has no bounds", chosen[w].name)
			continue
		}
		for r := range rs {
			geometric[r] += math.Log(figuresOf(results[w][r], results[w][oracle]).mean) / float64(len(chosen))
		}
		f := figuresOf(results[w][mine], results[w][oracle])
		bounces += f.bounces / float64(len(chosen))
		for k := range results[w][mine] {
			r := &results[w][mine][k]
			if r.Unfinished > 0 {
				t.Errorf("%s, seed %d: %d requests never ended", r.World, r.Seed, r.Unfinished)
			}
			if r.Measured < fewest {
				continue
			}
			f := figuresOf(results[w][mine][k:k+1], results[w][oracle][k:k+1])
			for _, c := range []struct {
				what      string
				got, want float64
			}{
				{"mean latency / oracle", f.mean, b.mean},
				{"p99 / oracle", f.p99, b.p99},
				{"bounces per request", f.bounces, b.bounces},
				{"share not served", f.unserved, b.unserved},
				{"share served far away", f.far, b.far},
			} {
				if c.got > c.want {
					t.Errorf("%s, seed %d: %s is %.4f: want at most %.4f", r.World, r.Seed, c.what, c.got, c.want)
				}
			}
		}
	}
	if got := math.Exp(geometric[mine]); got > overall.mean {
		t.Errorf("geometric mean of latency / oracle is %.3f: want at most %.3f", got, overall.mean)
	}
	if bounces > overall.bounces {
		t.Errorf("%.3f bounces per request on average over the worlds: want at most %.3f", bounces, overall.bounces)
	}
	for r := range rs {
		if r != mine && !knowsAll(rs[r].Name) && rs[r].Name != "leastload" && !rs[r].blind && geometric[r] < geometric[mine] {
			t.Errorf("%s is ahead of ours: %.3f against %.3f x the oracle's latency", rs[r].Name, math.Exp(geometric[r]), math.Exp(geometric[mine]))
		}
	}
}

func knowsAll(rule string) bool { return rule == "oracle" || rule == "jsq-true" }
