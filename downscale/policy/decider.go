package policy

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// Config configures a [Decider]. The zero value is valid: it hardly ever has a machine stopped
// only to be started again. For machines that cost more than a start, a window of 2 min, a
// headroom of 0.9, a keep-alive of 1 min and 15 s to settle sleep early and run full; to keep
// room for a load that comes back, 15 min, 0.7, 30 min and 1 min.
type Config struct {
	// Window is how far back the load counts for the head-room rule. 0 means 5 min: with that, a load
	// that swings through the day with noise on top hardly ever has a machine stopped only to be
	// started again. Negative turns the rule off: only the keep-alive stops machines.
	Window time.Duration
	// Headroom is the part of the remaining machines' limits that the largest load of the window may
	// take. 0 means 0.8; at most 1.
	Headroom float64
	// KeepAlive is how long an app without a request keeps its machines, where [balance.App].KeepAlive
	// is 0 and [Situation].KeepAlive is too. 0 means 5 min. Negative turns the rule off: an app's last
	// machine then runs for ever, unless its own KeepAlive says otherwise.
	KeepAlive time.Duration
	// Settle is how long after a start the head-room rule leaves a region alone. 0 means 30 s, or
	// Window where that is shorter. Negative means not at all.
	Settle time.Duration
	// Every is how often the decider is asked. 0 means 1 s.
	Every time.Duration
	// Notify are the classes of long connections that do not keep a machine: they may be told to end.
	Notify balance.Class
}

func (c Config) resolve() (Config, error) {
	bad := func(field string, v any, want string) (Config, error) {
		return Config{}, fmt.Errorf("policy: Config.%s %v: want %s", field, v, want)
	}
	switch {
	case c.Headroom < 0 || c.Headroom > 1 || c.Headroom != c.Headroom:
		return bad("Headroom", c.Headroom, "0 (0.8) or more, at most 1")
	case c.Every < 0:
		return bad("Every", c.Every, "0 (1s) or more")
	case c.Notify&^balance.ClassAll != 0:
		return bad("Notify", c.Notify, "classes of balance.ClassAll")
	}
	c.Window = cmp.Or(c.Window, 5*time.Minute)
	c.Headroom = cmp.Or(c.Headroom, 0.8)
	c.KeepAlive = cmp.Or(c.KeepAlive, 5*time.Minute)
	c.Every = cmp.Or(c.Every, time.Second)
	if c.Settle == 0 {
		c.Settle = min(30*time.Second, max(0, c.Window))
	}
	return c, nil
}

// Decider decides which machines of one app, of those that this node owns, are surplus. It is not
// safe for concurrent use.
//
// Each region is looked at by itself. A machine is spared when one of two rules says so:
//
//   - Keep-alive: nothing is in flight in the whole app, nothing waits and nothing has been admitted or started for
//     [balance.App.KeepAlive], else [Situation].KeepAlive, else [Config.KeepAlive]. All surplus machines go at once.
//   - Head-room: the largest load of the last [Config.Window] is at most [Config.Headroom] of what the others can take, no
//     machine is starting or has been within [Config.Settle], and the whole window has been watched. At most
//     max(1, 10 %) of the region's machines are on their way at once. The app's last machine is left to the keep-alive.
//
// A machine can take its soft limit, else its hard limit. With neither it can take everything:
// load then justifies one machine and never more, just as it starts no second one.
//
// Machines of other nodes whose load is known count like this node's, and when one of them is to
// go first, that is left to its owner, for a while: so several deciders that see the same stop
// what one would. A region of which a load is not known where it should be is left alone.
//
// Of the app's machines, running or not, the first [balance.App.Min] of the canonical order are
// never spared, nor are the first MinPerRegion of each region: so several deciders that see
// different fleets keep the minimum between them. And none is spared that would leave fewer than
// that running or starting, as far as this node sees.
//
// Machines of another revision go first, then idle ones, those without long connections, and from
// the back of the canonical order. A machine that leaves is recalled, from the front of the
// order, as soon as neither rule holds for it any longer.
type Decider struct {
	config  Config
	now     time.Time              // of the latest Situation: time does not go back
	used    time.Time              // when something was last in use
	regions map[string]*regionLoad // nil while no machine runs
	order   []*regionLoad          // by name; those of the latest Situation
	out     []Decision

	// Of the present Situation.
	at      []*regionLoad // by machine
	running int           // started or starting and not leaving, of all owners
	known   int           // started and not leaving, of this node or with a known load
	leaving int           // of this node
	spares  int           // App.Spare
	open    balance.Class // of this node's machines
	kept    []bool        // by machine: it belongs to a minimum
}

// regionLoad is what a decider knows of one region: what it remembers, and the sums of the
// present Situation.
type regionLoad struct {
	name    string
	window  window
	started time.Time // when a start was last under way
	asked   map[balance.MachineID]asked

	sums
	sparing
}

// asked is since when it has been another owner's turn to let a machine go.
type asked struct{ since, last time.Time }

type sums struct {
	here     bool // the region has machines of the app
	load     int
	burst    int     // what peaks stood above the load, and more than noise does: summed
	noise    float64 // the squares of what they stood above it as noise does: summed
	running  int     // of all owners: started or starting, not leaving
	mine     int     // of this node: started, not leaving
	known    int     // mine, and of others with a known load: started, not leaving
	leaving  int     // of those
	capacity int     // of known
	endless  int     // how many of known have no limit
	stale    bool
	starting balance.MachineID
}

// sparing is how far the sparing of a region has come in the present answer.
type sparing struct {
	open      bool // more may be spared
	room      int  // how many more
	spared    bool
	vetoed    bool
	oldVetoed bool // one of an old revision is
	busy      balance.MachineID
	keep      balance.Class     // of busy: the long connections that keep it
	turn      balance.MachineID // of another owner: it goes first
	recalled  bool
}

// NewDecider returns a decider.
func NewDecider(c Config) (*Decider, error) {
	c, err := c.resolve()
	if err != nil {
		return nil, err
	}
	return &Decider{config: c}, nil
}

// Decide decides at time now. It returns the machines to spare and to recall, and for each region
// in which this node has running machines and spares none a Hold that says why. The slice is
// valid until the next call.
func (d *Decider) Decide(now time.Time, s Situation) []Decision {
	d.begin(now, &s)
	idle, isIdle := d.idle(&s)
	if hold, ok := s.hold(); ok {
		d.holdAll(&s, hold)
	} else {
		if d.leaving > 0 {
			d.recall(&s, idle, isIdle)
		}
		d.spare(&s, idle, isIdle)
	}
	out := d.out
	if !slices.ContainsFunc(s.Machines, Seen.moves) {
		// it sleeps; what wakes is watched anew
		d.regions, d.at, d.order, d.out, d.kept = nil, nil, nil, nil, nil
	}
	return out
}

// begin takes the situation in: the sums, the windows, and when something was last in use.
func (d *Decider) begin(now time.Time, s *Situation) {
	if now.Before(d.now) {
		now = d.now
	}
	gap := now.Sub(d.now)
	first := d.now.IsZero()
	d.now = now
	s.sort()
	d.out, d.at, d.order = d.out[:0], d.at[:0], d.order[:0]
	d.running, d.known, d.leaving, d.spares, d.open = 0, 0, 0, s.App.Spare, 0
	for _, r := range d.regions {
		r.sums, r.sparing = sums{}, sparing{}
	}
	inUse := first || s.Parked > 0
	for i := range s.Machines {
		m := &s.Machines[i]
		r := d.region(m.Region)
		d.at = append(d.at, r)
		r.here = true
		inUse = d.count(r, m, s) || inUse
	}
	for name, r := range d.regions {
		if !r.here {
			delete(d.regions, name)
			continue
		}
		d.order = append(d.order, r)
		if !first && gap > d.blind() {
			r.window = newWindow(d.config.Window) // what happened meanwhile nobody knows
		}
		r.window.add(now, r.peak())
		if r.starting != "" {
			r.started = now
			inUse = inUse || r.known+r.leaving > 0
		}
	}
	slices.SortFunc(d.order, func(a, b *regionLoad) int { return cmp.Compare(a.name, b.name) })
	if inUse {
		d.used = now
	}
}

// blind is how long a decider may not be asked before it has to watch a window anew.
func (d *Decider) blind() time.Duration { return max(10*d.config.Every, d.config.Window/10) }

func (d *Decider) region(name string) *regionLoad {
	r, ok := d.regions[name]
	if !ok {
		r = &regionLoad{name: name, window: newWindow(d.config.Window)}
		if d.regions == nil {
			d.regions = map[string]*regionLoad{}
		}
		d.regions[name] = r
	}
	return r
}

// count adds m to the sums and reports whether it is in use.
func (d *Decider) count(r *regionLoad, m *Seen, s *Situation) (inUse bool) {
	if m.counts() {
		d.running++
		r.running++
	}
	if m.State == balance.StateStarting {
		r.starting = m.ID
	}
	if !m.Own && !m.Known {
		r.stale = r.stale || m.Stale && m.counts()
		return m.Stale && m.counts() // nothing is stopped on doubt
	}
	if m.Own && m.Began {
		r.started = d.now
	}
	d.open |= m.Open
	load := max(0, m.Load) // a report may say anything
	if m.Own && m.Used {
		load = max(load, 1) // it came and went between two looks
	}
	r.load += load
	if !m.Leaving { // its load moves to the others, whose peaks have it
		n, b := split(load, m.Peak)
		r.noise, r.burst = r.noise+n*n, r.burst+b
	}
	switch {
	case m.State != balance.StateStarted || m.Hard:
	case m.Leaving:
		r.leaving++
		if m.Own {
			d.leaving++
		}
	default:
		d.known++
		r.known++
		if m.Own {
			r.mine++
		}
		r.add(m, 1)
	}
	return load > m.Idle || m.Own && m.Began
}

// split divides what a machine's peak stands above its load into noise and burst. Requests that
// arrive by chance vary by the root of their number, and three times that is as far as chance
// goes in a second; what is above came for a reason that other machines are likely to share.
func split(load, peak int) (noise float64, burst int) {
	above := max(0, peak-load)
	limit := int(3*math.Sqrt(float64(max(1, load))) + 0.5)
	return float64(min(above, limit)), max(0, above-limit)
}

// peak estimates the most that the region's machines had together. Their own peaks came at
// different times: as far as they are noise, which is independent, the squares add up and not the
// peaks themselves.
func (r *regionLoad) peak() int { return r.load + r.burst + int(math.Sqrt(r.noise)+0.5) }

// add counts m's capacity in, or out with -1.
func (r *regionLoad) add(m *Seen, sign int) {
	switch c := capacity(m); c {
	case unlimited:
		r.endless += sign
	default:
		r.capacity += sign * c
	}
}

// roomWithout reports whether the region's peak fits without m; with m nil, as it is. Where there
// was load, what App.Spare keeps does not count: spares that could be filled would be none.
func (d *Decider) roomWithout(r *regionLoad, m *Seen) (fits bool, of Decision) {
	rest, endless := r.capacity, r.endless
	if d.spares > 0 && r.window.peak() > 0 {
		limited := r.known - r.endless
		rest -= r.capacity / max(1, limited) * min(d.spares, limited)
		endless -= max(0, d.spares-limited)
	}
	if m != nil {
		if c := capacity(m); c == unlimited {
			endless--
		} else {
			rest -= c
		}
	}
	if endless > 0 {
		rest = unlimited
	}
	of = Decision{
		Peak: r.window.peak(), Capacity: rest, Headroom: d.config.Headroom, Of: d.config.Window,
	}
	of.Capacity = max(0, rest)
	return rest == unlimited || float64(of.Peak) <= d.config.Headroom*float64(rest), of
}

// idle returns how the keep-alive rule decides; ok is false when it does not hold.
func (d *Decider) idle(s *Situation) (of Decision, ok bool) {
	keep := cmp.Or(s.App.KeepAlive, s.KeepAlive, d.config.KeepAlive)
	of = Decision{Verdict: VerdictSpare, Rule: ruleKeepAlive, For: d.now.Sub(d.used), Of: keep}
	of.Idle = keep >= 0 && of.For >= keep
	return of, of.Idle
}

func (d *Decider) say(s *Situation, r *regionLoad, m *Seen, v Verdict, of Decision) {
	of.App, of.Region, of.Verdict = s.App.ID, r.name, v
	if m != nil {
		of.Machine = m.ID
	}
	d.out = append(d.out, of)
}

func (d *Decider) holdAll(s *Situation, of Decision) {
	for i := range s.Machines {
		if m := &s.Machines[i]; m.isLeaving() {
			d.say(s, d.at[i], m, VerdictRecall, of)
		}
	}
	for _, r := range d.order {
		if r.mine > 0 {
			d.say(s, r, nil, VerdictHold, of)
		}
	}
}
