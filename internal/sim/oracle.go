package sim

import (
	"cmp"
	"slices"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// truth is a rule that sees the true state of every machine, including requests on their way to it.
// It learns of free slots at once.
type truth struct {
	s     *Sim
	e     *edge
	rand  *rng
	moves int64   // of the simulation, when room was last called
	order []int32 // regions by true round trip
	cost  func(s *Sim, e *edge, m *machine) (cost, tie float64)
	// byTime says that the cost is in seconds, and at least that of a mean request at the fastest
	// machine.
	byTime bool
}

func knowing(name string, byTime bool, cost func(*Sim, *edge, *machine) (cost, tie float64)) Rule {
	return Rule{Name: name, build: func(s *Sim, e *edge) (picker, error) {
		s.omniscient = true
		t := &truth{
			s:      s,
			e:      e,
			rand:   newRng(s.seed, forRule, int(e.index)),
			moves:  -1,
			cost:   cost,
			byTime: byTime,
		}
		for r := range s.regions {
			t.order = append(t.order, int32(r))
		}
		slices.SortStableFunc(
			t.order,
			func(a, b int32) int { return cmp.Compare(s.rtt[e.region][a], s.rtt[e.region][b]) },
		)
		return t, nil
	}}
}

// Shortest joins the shortest queue over all regions, in units of what a machine serves at a time;
// among equals it takes the nearest.
func Shortest() Rule {
	return knowing("jsq-true", false, func(s *Sim, e *edge, m *machine) (float64, float64) {
		return float64(m.inFlight+m.coming) / float64(m.slots), float64(s.rtt[e.region][m.region])
	})
}

// Oracle picks the machine with the least true cost: the round trip and the time that a mean
// request is expected to take there together with those that are there and on the way. It does not
// know how much work is in any of them; nobody could.
func Oracle() Rule {
	return knowing("oracle", true, func(s *Sim, e *edge, m *machine) (float64, float64) {
		n := float64(m.inFlight + m.coming)
		slots := float64(m.slots)
		work := s.w.Work.mean / max(m.speed, 1e-9)
		if m.fifo {
			work *= 1 + max(0, n+1-slots)/slots
		} else {
			work *= max(1, (n+1)/slots)
		}
		return work + float64(s.rtt[e.region][m.region])/1e9, n / slots
	})
}

func (t *truth) pick(r *request) (int32, bool) {
	best, ties := int32(-1), 0
	var bestCost, bestTie float64
	hard := t.s.w.Limits.Hard
	for _, region := range t.order {
		if best >= 0 && t.least(region) > bestCost {
			break // and so are the farther ones
		}
		for _, i := range t.s.regions[region] {
			m := &t.s.machines[i]
			if !m.up || m.sick || m.dark || hard > 0 && m.inFlight+m.coming >= hard {
				continue
			}
			cost, tie := t.cost(t.s, t.e, m)
			switch {
			case best < 0 || cost < bestCost || cost == bestCost && tie < bestTie:
				best, bestCost, bestTie, ties = i, cost, tie, 1
			case cost == bestCost && tie == bestTie:
				if ties++; t.rand.intn(ties) == 0 {
					best = i
				}
			}
		}
	}
	return best, best >= 0
}

// least is a bound on what any machine of a region costs.
func (t *truth) least(region int32) float64 {
	if !t.byTime {
		return 0
	}
	return t.s.w.Work.mean/t.s.fastest + float64(t.s.rtt[t.e.region][region])/1e9
}

func (t *truth) answer(*request)                  {}
func (t *truth) report(int32, *balance.Load, int) {}
func (t *truth) row(*sentRow)                     {}
func (t *truth) tick(time.Time)                   {}
func (t *truth) room() bool {
	was := t.moves
	t.moves = t.s.moves
	return was != t.moves
}

// moved is called when a slot of a machine may have become free. If the rule knows everything, the
// oldest request of all edges goes first.
func (s *Sim) moved() {
	s.moves++
	for s.omniscient {
		oldest := -1
		for i := range s.edges {
			if e := &s.edges[i]; len(e.parked) > 0 &&
				(oldest < 0 || s.reqs[e.parked[0]].serial < s.reqs[s.edges[oldest].parked[0]].serial) {
				oldest = i
			}
		}
		if oldest < 0 || !s.unpark(&s.edges[oldest]) {
			return
		}
	}
}
