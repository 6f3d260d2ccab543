package policy

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/boots"
	"github.com/ebbkit/ebb/balance"
)

// census counts an app's machines by their use, and estimates the starts in flight.
type census struct {
	p   *Planner
	now time.Time
	in  *Input

	active   int // machines started or starting, whatever their use
	ready    int
	broken   int
	starting int
	// that may serve sooner or later: ready, starting, recallable, broken, stopping, silent
	serving      int
	neverHealthy int    // of starting: known never to become healthy
	doubtful     int    // of starting: nobody should wait for them
	doubt        string // why

	silent []balance.NodeID  // owners that do not answer
	lost   []balance.Machine // whose accepted start has not been seen for too long
	starts outlook           // of the starts in flight
}

// outlook is how long the starts in flight may take, see [Decision].
type outlook struct {
	wait, await, remaining time.Duration
	suspect                int
}

// take looks at all machines. wanted says that machines are wanted at all: otherwise a lost start
// is forgotten.
func (c *census) take(wanted bool) {
	c.starts.wait = boots.WaitMin
	c.findSilent()
	for i, m := range c.in.Machines {
		if s := &c.p.memory[i]; s.stale(c.now) {
			a := &s.asked
			if wanted {
				a.pending, a.at = true, c.now
				c.lost = append(c.lost, *m)
			} else {
				*a = asked{}
			}
		}
		st := c.silenced(i, m, c.p.use(c.now, i, m))
		if st == ready && slices.Contains(c.in.Outliers, m.ID) {
			st = broken
		}
		c.p.uses[i] = st
		c.count(i, m, st)
	}
	copy(c.p.usesBefore, c.p.uses)
}

// count counts a machine of that use.
func (c *census) count(i int, m *balance.Machine, st use) {
	if st == starting || st == ready || st == silent || m.State == balance.StateStarted ||
		m.State == balance.StateStarting {
		c.active++
	}
	switch st {
	case ready:
		c.ready++
	case broken:
		c.broken++
	case starting:
		c.starting++
		c.age(i, m)
	case stopping:
		c.after(i, m)
	}
	switch st {
	case ready, starting, recallable, broken, stopping, silent:
		c.serving++
	}
}

// findSilent finds out which owners do not answer. As long as nobody waits there is time to wait
// for them.
func (c *census) findSilent() {
	if c.in.Parked == 0 {
		return
	}
	for i, m := range c.in.Machines {
		if a := &c.p.memory[i].asked; a.on && a.pending && a.overdue(c.now, c.in.rtt(m.Region)) &&
			!slices.Contains(c.silent, m.Owner) {
			c.silent = append(c.silent, m.Owner)
		}
	}
}

// silenced adjusts the use of machine i if its owner does not answer.
func (c *census) silenced(i int, m *balance.Machine, st use) use {
	switch {
	case len(c.silent) == 0 || !slices.Contains(c.silent, m.Owner):
	case st == startable:
		return held
	case st == starting && m.State != balance.StateStarting &&
		c.p.memory[i].asked.overdue(c.now, c.in.rtt(m.Region)):
		return silent
	}
	return st
}

// age looks at how long a start has been in flight.
func (c *census) age(i int, m *balance.Machine) {
	if closing(m.State) {
		c.after(i, m)
		return
	}
	s := &c.p.memory[i]
	at := s.asked.at
	key := boots.Key{Revision: m.Revision, Kind: s.kind}
	if m.State == balance.StateStarting || m.State == balance.StateStarted {
		at = s.bootAt
	} else if m.State == balance.StateSuspended {
		key.Kind = boots.Resume
	}
	if m.State == balance.StateStarting && m.Health == balance.HealthFailing && !m.Recent {
		c.neverHealthy++
	}
	b := c.p.boots.Of(key)
	age := c.now.Sub(at)
	if s.held {
		age = 0 // it has not begun
	}
	c.doubts(m, at, age)
	c.await(b.Wait(), b.Wait()-age)
	c.remaining(b.Remaining(age))
	if age >= b.Suspect() {
		c.starts.suspect++
	}
}

// doubts finds out whether a start in flight is worth waiting for.
func (c *census) doubts(m *balance.Machine, began time.Time, age time.Duration) {
	switch {
	case m.State == balance.StateStarting && m.Doubtful:
		c.doubtful++
		c.doubt = cmp.Or(c.doubt, fmt.Sprintf("machine %s: %s", m.ID, m.Fault))
	case c.p.breaker.repeats(began, age):
		c.doubtful++
	}
}

// after looks at a start that waits for the end of a stop.
func (c *census) after(i int, m *balance.Machine) {
	s := &c.p.memory[i]
	if !s.asked.on {
		return
	}
	key := boots.Key{Revision: m.Revision, Kind: boots.Cold}
	if m.State == balance.StateSuspending {
		key.Kind = boots.Resume
	}
	b, age := c.p.boots.Of(key), c.now.Sub(s.since)
	wait := c.p.stops.bound(m.State, age) + b.Wait()
	c.await(wait, wait)
	c.remaining(c.p.stops.left(m.State, age) + b.Expected())
}

// started counts a start that has just been decided.
func (c *census) started(m *balance.Machine) {
	c.active++
	c.starting++
	c.serving++
	key := boots.Key{Revision: m.Revision, Kind: boots.Cold}
	if m.State == balance.StateSuspended {
		key.Kind = boots.Resume
	}
	b := c.p.boots.Of(key)
	c.await(b.Wait(), b.Wait())
	c.remaining(b.Remaining(0))
	if c.p.breaker.repeats(c.now, 0) {
		c.doubtful++
	}
}

// await records how long a start is worth waiting for: from its beginning, and from now.
func (c *census) await(whole, left time.Duration) {
	c.starts.wait, c.starts.await = max(c.starts.wait, whole), max(c.starts.await, left)
}

// remaining records in how long a start should be ready; the earliest counts.
func (c *census) remaining(left time.Duration) {
	if c.starts.remaining == 0 || left < c.starts.remaining {
		c.starts.remaining = left
	}
}
