package sim

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// End is how a request ended. Each ends once.
type End uint8

// The ends.
const (
	Served   End = iota
	Failed       // the machine failed it
	Refused      // no machine had room, and there was no waiting room, or the deadline had passed
	TimedOut     // its deadline passed in the waiting room
	ends
)

// Result is the outcome of a run.
type Result struct {
	World, Rule string
	Seed        uint64

	Requests   int // all
	Ends       [ends]int
	Parks      int // times that a request was put into a waiting room
	Unfinished int // had not ended when nothing was left to happen: a fault of the simulation or of the rule

	Measured int // arrived after the warm-up
	Bounces  int // of these
	Far      int // of these, served outside the region nearest to their edge
	Unserved int // of these, not served

	// Latencies are of the measured requests, from arrival at the edge to the answer there. A
	// request that was not served counts as unservedCost times the mean work, or its true time if
	// that is longer: failing fast must not look good.
	Mean, P50, P99, Max time.Duration

	Machines []MachineResult
	Elapsed  time.Duration // virtual, to the end of the last request

	meanOfAll time.Duration // true latency, the warm-up included
}

// MachineResult is the outcome for one machine.
type MachineResult struct {
	Served, Failed int
	Most           int           // the most in flight at a time
	Load           float64       // mean in flight over the run
	Starts         int           // since the run began
	Ran            time.Duration // started, starting or stopping
}

// unservedCost is the latency of a request that was not served, in units of the mean work.
const unservedCost = 10

// end ends a request.
func (s *Sim) end(req int32, how End) {
	r := &s.reqs[req]
	if !r.alive {
		panic("sim: a request ended twice")
	}
	s.live--
	s.out.Ends[how]++
	s.lasted += float64(s.now - r.arrived)
	if r.arrived >= int64(s.w.Warm) && !r.poison {
		took := s.now - r.arrived
		if how != Served {
			s.out.Unserved++
			took = max(took, int64(unservedCost*s.w.Work.mean*1e9))
		} else if s.machines[r.machine].region != s.edges[r.edge].nearest {
			s.out.Far++
		}
		s.latencies = append(s.latencies, took)
	}
	r.alive = false
	s.free = append(s.free, req)
}

func (s *Sim) result(rule Rule) Result {
	out := &s.out
	out.World, out.Rule, out.Seed = s.w.Name, rule.Name, s.seed
	out.Unfinished = s.live
	out.Elapsed = time.Duration(s.now)
	out.Measured = len(s.latencies)
	out.meanOfAll = time.Duration(s.lasted / float64(max(1, out.Requests)))
	slices.Sort(s.latencies)
	sum := 0.0
	for _, l := range s.latencies {
		sum += float64(l)
	}
	if n := len(s.latencies); n > 0 {
		out.Mean = time.Duration(sum / float64(n))
		out.P50 = time.Duration(s.latencies[n/2])
		out.P99 = time.Duration(s.latencies[min(n-1, int(math.Ceil(float64(n)*0.99))-1)])
		out.Max = time.Duration(s.latencies[n-1])
	}
	for i := range s.machines {
		m := &s.machines[i]
		m.count(s.now, 0)
		m.run(s.now, m.runs)
		out.Machines = append(out.Machines, MachineResult{
			Served: m.served, Failed: m.errored, Most: m.most, Load: m.area / (float64(s.now) / 1e9), Starts: m.starts, Ran: time.Duration(m.ran),
		})
	}
	return *out
}

// BouncesPer returns the bounces per request.
func (r *Result) BouncesPer() float64 { return share(r.Bounces, r.Measured) }

// FarShare returns the share of requests that were served outside the nearest region.
func (r *Result) FarShare() float64 { return share(r.Far, r.Measured) }

// UnservedShare returns the share of requests that were not served.
func (r *Result) UnservedShare() float64 { return share(r.Unserved, r.Measured) }

func share(n, of int) float64 {
	if of == 0 {
		return 0
	}
	return float64(n) / float64(of)
}

// String returns the figures in one line.
func (r *Result) String() string {
	return fmt.Sprintf("%-12s %-12s %8d requests  mean %9v  p99 %9v  bounces %.4f  unserved %.4f%%  far %5.1f%%",
		r.World, r.Rule, r.Requests, r.Mean.Round(10*time.Microsecond), r.P99.Round(10*time.Microsecond),
		r.BouncesPer(), 100*r.UnservedShare(), 100*r.FarShare())
}
