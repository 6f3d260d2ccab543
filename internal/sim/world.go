package sim

import (
	"cmp"
	"fmt"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// World describes the setting in which a rule runs. The zero value of a field is the default that
// its comment names.
type World struct {
	Name  string
	About string // one line for people

	Regions []Region
	// RTT is the round trip between regions, and within one on the diagonal; nil means 2 ms within a
	// region and 40 ms more for each step between two.
	RTT [][]time.Duration
	// Believed holds the round trips that edges assume; nil means RTT.
	Believed [][]time.Duration

	// Slots is how many requests a machine serves at full speed at a time; 0 means the soft limit,
	// or 1 without one.
	Slots int
	// FIFO machines make requests beyond Slots wait in order; the others share their speed among
	// all requests.
	FIFO bool
	// Limits are each machine's.
	Limits balance.Limits
	// Speed is the speed of machine i, counted over all regions; nil means 1 for all.
	Speed func(i int) float64
	// Stopped machines exist, but are not started when the run begins; nil means none.
	Stopped func(i int) bool
	// Boot is how long a start takes, Stop how long the end of a machine takes after its last request.
	Boot, Stop Dist

	Work Dist
	// Load is the offered work as a share of what all machines can do.
	Load float64
	// Poison is the share of requests that are answered with status 500 at once, wherever they go.
	// They are load, and not measured.
	Poison float64
	// Burst makes each edge's arrivals bursty.
	Burst Burst
	// Skew is the exponent of the Zipf law that shares a region's demand among its edges; 0 means
	// equal shares.
	Skew float64

	Reports Reports
	// Rows is how late a changed row reaches an edge; a random time up to RowJitter is added. 0
	// means as late as a report.
	Rows, RowJitter time.Duration
	// PerOwner is the number of machines to an owner, which reports them together; 0 means 1.
	PerOwner int

	// OneProcess makes the only edge the owner of all machines: the balancer hosts them and reads
	// their gates. Other rules ignore it.
	OneProcess bool

	// Grants gives each owner a granter: slots of machines with small hard limits go to the edges
	// where requests wait. Rules other than Balanced ignore it. It needs a Queue.
	Grants bool

	// Queue gives edges a waiting room: a request that finds no room waits for it, in order, up to
	// Deadline after its arrival (0 means 10 s). Without one it fails at once.
	Queue    bool
	Deadline time.Duration
	// Tries is how many machines a request may try before it fails; 0 means 6.
	Tries int

	// Timeout is when an edge gives up a request whose machine's owner is cut off; 0 means 1 s.
	Timeout time.Duration

	// Script holds the events that happen at given times, Every those that recur: a planner's
	// rounds.
	Script []Step
	Every  []Round

	// Length is for how long requests arrive; the run then goes on until the last request has
	// ended. Arrivals before Warm are not measured; 0 means a tenth of Length.
	Length, Warm time.Duration
}

// Region is a place with machines and edges; either may be missing.
type Region struct {
	Name     string
	Machines int
	Edges    int
	// Demand is the weight of this region's clients in the offered load; 0 means its number of
	// machines. Without edges there are no clients.
	Demand float64
}

// Reports says how load reports travel. The zero value means every 250 ms, 100 ms late, 20 % jitter
// of the delay, no loss.
type Reports struct {
	Every  time.Duration
	Delay  time.Duration
	Jitter time.Duration // a random time up to it is added to Delay; negative means none
	Loss   float64       // share of reports that do not arrive
}

// Burst switches an edge between two rates that average its own: Factor times the lower one during
// bursts. Both phases are exponential. The zero value means no bursts.
type Burst struct {
	Factor  float64
	On, Off time.Duration // mean lengths
}

// Step is an event that happens once.
type Step struct {
	At time.Duration
	Do func(*Sim)
}

// Round is an event at the end of each period.
type Round struct {
	Period time.Duration
	Do     func(*Sim)
}

// Uniform returns n equal regions.
func Uniform(n, machines, edges int) []Region {
	regions := make([]Region, n)
	for i := range regions {
		regions[i] = Region{Machines: machines, Edges: edges}
	}
	return regions
}

// Line returns the round trips of n regions in a line: near within one, and step more for each step
// between two.
func Line(n int, near, step time.Duration) [][]time.Duration {
	rtt := make([][]time.Duration, n)
	for i := range rtt {
		rtt[i] = make([]time.Duration, n)
		for j := range rtt[i] {
			rtt[i][j] = near + step*time.Duration(max(i-j, j-i))
		}
	}
	return rtt
}

// resolve returns the world with its defaults filled in.
func (w World) resolve() (World, error) {
	bad := func(field string, v any, want string) (World, error) {
		return w, fmt.Errorf("sim: world %q: %s %v: want %s", w.Name, field, v, want)
	}
	n := len(w.Regions)
	switch {
	case n == 0:
		return bad("Regions", n, "at least one")
	case w.Work.mean <= 0:
		return bad("Work", w.Work.Mean(), "a mean above 0")
	case w.Load <= 0:
		return bad("Load", w.Load, "above 0")
	case w.Length <= 0:
		return bad("Length", w.Length, "above 0")
	case w.Warm >= w.Length:
		return bad("Warm", w.Warm, "less than Length")
	case w.Burst.Factor != 0 && (w.Burst.Factor < 1 || w.Burst.On <= 0 || w.Burst.Off <= 0):
		return bad("Burst", w.Burst, "a factor of 1 or more and phases above 0")
	case !(w.Poison >= 0 && w.Poison <= 1):
		return bad("Poison", w.Poison, "0 to 1")
	case w.Reports.Loss < 0 || w.Reports.Loss > 1:
		return bad("Reports.Loss", w.Reports.Loss, "0 to 1")
	}
	for _, e := range w.Every {
		if e.Period <= 0 {
			return bad("Every.Period", e.Period, "above 0")
		}
	}
	if w.RTT == nil {
		w.RTT = Line(n, 2*time.Millisecond, 40*time.Millisecond)
	}
	if w.Believed == nil {
		w.Believed = w.RTT
	}
	for _, m := range [][][]time.Duration{w.RTT, w.Believed} {
		if len(m) != n || len(m[0]) != n {
			return bad("RTT", len(m), "one row and one column for each region")
		}
	}
	w.Regions = append([]Region(nil), w.Regions...)
	machines, edges := 0, 0
	for i := range w.Regions {
		r := &w.Regions[i]
		r.Name = cmp.Or(r.Name, fmt.Sprintf("r%02d", i))
		r.Demand = cmp.Or(r.Demand, float64(r.Machines))
		if r.Edges == 0 {
			r.Demand = 0
		}
		machines, edges = machines+r.Machines, edges+r.Edges
	}
	if machines == 0 || edges == 0 {
		return bad("Regions", w.Regions, "a machine and an edge")
	}
	if w.OneProcess && edges != 1 {
		return bad("OneProcess", edges, "one edge")
	}
	if w.Grants && (!w.Queue || w.OneProcess) {
		return bad("Grants", w.Grants, "a Queue, and not OneProcess")
	}
	w.Slots = cmp.Or(w.Slots, w.Limits.Soft, 1)
	w.PerOwner = cmp.Or(w.PerOwner, 1)
	w.Tries = cmp.Or(w.Tries, 6)
	w.Deadline = cmp.Or(w.Deadline, 10*time.Second)
	w.Timeout = cmp.Or(w.Timeout, time.Second)
	w.Warm = cmp.Or(w.Warm, w.Length/10)
	w.Reports.Every = cmp.Or(w.Reports.Every, 250*time.Millisecond)
	w.Reports.Delay = cmp.Or(w.Reports.Delay, 100*time.Millisecond)
	w.Reports.Jitter = max(0, cmp.Or(w.Reports.Jitter, w.Reports.Delay/5))
	w.Rows = cmp.Or(w.Rows, w.Reports.Delay)
	if w.Speed == nil {
		w.Speed = func(int) float64 { return 1 }
	}
	if w.Stopped == nil {
		w.Stopped = func(int) bool { return false }
	}
	return w, nil
}
