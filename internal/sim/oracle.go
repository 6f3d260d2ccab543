package sim

import (
	"time"

	"github.com/ebbkit/ebb/balance"
)

// truth is a rule that sees every machine as it is, with what is on its way to it. It looks at all of them, and it learns
// of room at once.
type truth struct {
	s     *Sim
	e     *edge
	rand  *rng
	moves int64 // of the simulation, when room was last asked for
	cost  func(s *Sim, e *edge, m *machine) (cost, tie float64)
}

func knowing(name string, cost func(*Sim, *edge, *machine) (cost, tie float64)) Rule {
	return Rule{name, func(s *Sim, e *edge) (picker, error) {
		s.omniscient = true
		return &truth{s: s, e: e, rand: newRng(s.seed, forRule, int(e.index)), moves: -1, cost: cost}, nil
	}}
}

// Shortest joins the shortest queue, in units of what a machine serves at a time, over all regions; the nearest of equals.
func Shortest() Rule {
	return knowing("jsq-true", func(s *Sim, e *edge, m *machine) (float64, float64) {
		return float64(m.inFlight+m.coming) / float64(m.slots), float64(s.rtt[e.region][m.region])
	})
}

// Oracle picks the machine that costs least in truth: the round trip and the time that a mean request is expected to take
// there beside those that are there and on the way. It does not know how much work is in any of them; nobody could.
func Oracle() Rule {
	return knowing("oracle", func(s *Sim, e *edge, m *machine) (float64, float64) {
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
	for i := range t.s.machines {
		m := &t.s.machines[i]
		if m.sick || hard > 0 && m.inFlight+m.coming >= hard || m.gate.State() != balance.Started {
			continue
		}
		cost, tie := t.cost(t.s, t.e, m)
		switch {
		case best < 0 || cost < bestCost || cost == bestCost && tie < bestTie:
			best, bestCost, bestTie, ties = int32(i), cost, tie, 1
		case cost == bestCost && tie == bestTie:
			if ties++; t.rand.intn(ties) == 0 {
				best = int32(i)
			}
		}
	}
	return best, best >= 0
}

func (t *truth) answer(*request)             {}
func (t *truth) report(int32, *balance.Load) {}
func (t *truth) row(*sentRow)                {}
func (t *truth) tick(time.Time)              {}
func (t *truth) room() bool {
	was := t.moves
	t.moves = t.s.moves
	return was != t.moves
}

// moved is called when a machine may have got room. Where the rule knows everything, the oldest request of all edges goes
// first.
func (s *Sim) moved() {
	s.moves++
	for s.omniscient {
		oldest := -1
		for i := range s.edges {
			if e := &s.edges[i]; len(e.parked) > 0 && (oldest < 0 || s.reqs[e.parked[0]].serial < s.reqs[s.edges[oldest].parked[0]].serial) {
				oldest = i
			}
		}
		if oldest < 0 || !s.unpark(&s.edges[oldest]) {
			return
		}
	}
}
