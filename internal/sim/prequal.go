package sim

import (
	"slices"
)

// prequal is probing with a pool, after Wydrowski and others, "Load is not what you should balance"
// (NSDI 2024): the hot and cold rule on requests in flight and latency. Probes go to all regions
// and take a round trip; the round trip that the edge assumes is added to a machine's latency.
type prequal struct {
	*view
	pool  []sample
	worst bool // what to remove next, else the oldest
	rifs  []int32
}

// sample is a probe's answer in the pool.
type sample struct {
	machine int32
	rif     int32
	latency float64
	at      int64
	uses    int
}

// probe is a probe on its way.
type probe struct {
	edge, machine int32
	rif           int32
	latency       float64
}

const (
	probesPer  = 3
	poolSize   = 16
	poolAge    = int64(1e9)
	hotAbove   = 0.84 // quantile of requests in flight in the pool
	sampleUses = 2    // the published formula gives 1.3 to 2 for the sizes here
)

// Prequal returns the rule.
func Prequal() Rule {
	return reference("prequal", func(v *view) *prequal { return &prequal{view: v} })
}

func (p *prequal) pick(r *request) (int32, bool) {
	for range min(probesPer, len(p.all)) {
		p.s.sendProbe(p.e, p.all[p.rand.intn(len(p.all))])
	}
	p.pool = slices.DeleteFunc(p.pool, func(c sample) bool { return p.s.now-c.at > poolAge || c.uses >= sampleUses })
	best := -1
	if len(p.pool) >= 2 {
		best = p.choose(r)
	}
	if best < 0 {
		return p.take(p.nearest(func(list []int32) (int32, bool) { return p.draw(list, r, nil) }))
	}
	c := &p.pool[best]
	c.rif++ // this request
	c.uses++
	m := c.machine
	p.shrink()
	return p.take(m, true)
}

// choose returns the coldest of the pool: the least latency among those that are not hot, else the
// least in flight.
func (p *prequal) choose(r *request) int {
	p.rifs = p.rifs[:0]
	for _, c := range p.pool {
		p.rifs = append(p.rifs, c.rif)
	}
	slices.Sort(p.rifs)
	hot := p.rifs[min(len(p.rifs)-1, int(hotAbove*float64(len(p.rifs))))]
	best := -1
	for i, c := range p.pool {
		if p.out(r, c.machine) {
			continue
		}
		if best < 0 {
			best = i
			continue
		}
		b := p.pool[best]
		switch cold, bestCold := c.rif <= hot, b.rif <= hot; {
		case cold != bestCold:
			if cold {
				best = i
			}
		case cold && c.latency < b.latency, !cold && c.rif < b.rif:
			best = i
		}
	}
	return best
}

// shrink removes one sample per request: the oldest and the worst in turn.
func (p *prequal) shrink() {
	if len(p.pool) < poolSize/2 {
		return
	}
	out := 0
	if p.worst {
		for i, c := range p.pool {
			if c.rif > p.pool[out].rif {
				out = i
			}
		}
	}
	p.worst = !p.worst
	p.pool = slices.Delete(p.pool, out, out+1)
}

func (s *Sim) sendProbe(e *edge, machine int32) {
	var i int32
	if n := len(s.freeProbes); n > 0 {
		i, s.freeProbes = s.freeProbes[n-1], s.freeProbes[:n-1]
	} else {
		i = int32(len(s.probes))
		s.probes = append(s.probes, probe{})
	}
	s.probes[i] = probe{edge: e.index, machine: machine}
	s.q.push(s.now+s.half(e.region, s.machines[machine].region), evProbe, i, 0)
}

// probe handles evProbe.
func (s *Sim) probe(i int32) {
	b := &s.probes[i]
	m := &s.machines[b.machine]
	if m.dark {
		s.freeProbes = append(s.freeProbes, i)
		return
	}
	b.rif, b.latency = int32(m.inFlight), m.expect(m.inFlight)
	s.q.push(s.now+s.half(s.edges[b.edge].region, m.region), evProbed, i, 0)
}

// probed handles evProbed.
func (s *Sim) probed(i int32) {
	b := s.probes[i]
	s.freeProbes = append(s.freeProbes, i)
	p := s.edges[b.edge].picker.(*prequal)
	if len(p.pool) >= poolSize {
		p.pool = slices.Delete(p.pool, 0, 1)
	}
	far := s.w.Believed[p.e.region][s.machines[b.machine].region].Seconds()
	p.pool = append(p.pool, sample{b.machine, b.rif, b.latency + far, s.now, 0})
	p.roomy = true
}
