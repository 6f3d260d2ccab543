package rtt

import "time"

// Disagreement is a pair of nodes whose measurements of each other differ by more than 10 ms for a minute. The two
// directions of a real path are measured together, so they differ by at most a few milliseconds (6 in a published
// matrix of 49 regions): this is a sick host, or one that lies.
type Disagreement struct {
	A, B   string
	AB, BA time.Duration // bases as measured by A and by B
	Since  time.Time
}

const (
	apart    = 10 * time.Millisecond
	apartFor = time.Minute
)

// agreement compares the two directions of pairs over time. Not safe for concurrent use.
type agreement struct{ since map[[2]string]time.Time }

// check takes in both directions of one pair and reports whether, and since when, they disagree.
func (g *agreement) check(now time.Time, a, b string, ab, ba Stat) (Disagreement, bool) {
	key := [2]string{a, b}
	if ab.State != StateFresh || ba.State != StateFresh {
		return Disagreement{}, false // no news: whatever was found stays
	}
	if d := ab.Base - ba.Base; d <= apart && -d <= apart {
		delete(g.since, key)
		return Disagreement{}, false
	}
	if g.since == nil {
		g.since = make(map[[2]string]time.Time)
	}
	since, ok := g.since[key]
	if !ok {
		since = now
		g.since[key] = now
	}
	return Disagreement{A: a, B: b, AB: ab.Base, BA: ba.Base, Since: since}, now.Sub(since) >= apartFor
}

// keep forgets pairs with nodes for which known is false.
func (g *agreement) keep(known func(id string) bool) {
	for key := range g.since {
		if !known(key[0]) || !known(key[1]) {
			delete(g.since, key)
		}
	}
}

// off reports whether the view of v's node is off: at least three nodes measured it and were measured by it, and more
// than half of these pairs differ by more than 10 ms. One bad path gives one such pair; a bad node gives most.
func off(v *Vector, stat func(from, to string) (Stat, bool)) bool {
	pairs, bad := 0, 0
	for _, e := range v.Entries {
		back, ok := stat(e.To, v.From)
		if e.State != StateFresh || !ok || back.State != StateFresh {
			continue
		}
		pairs++
		if d := e.Base - back.Base; d > apart || -d > apart {
			bad++
		}
	}
	return pairs >= 3 && 2*bad > pairs
}
