package sim

import (
	"math"

	"github.com/ebbkit/ebb/balance"
)

// References returns the rules to compare with, each as it is known or documented elsewhere, then
// the two that know the truth.
func References() []Rule {
	return []Rule{Random(), TwoAnywhere(), TwoNearest(), TwoByReport(), PeakEWMA(), Prequal(), ThreeClasses(), Shortest(), Oracle()}
}

type random struct{ *view }

// Random draws a machine from the nearest region.
func Random() Rule {
	return reference("random", func(v *view) *random { return &random{v} })
}

func (p *random) pick(r *request) (int32, bool) {
	return p.take(p.nearest(func(list []int32) (int32, bool) { return p.draw(list, r, nil) }))
}

type twoAnywhere struct{ *view }

// TwoAnywhere is the power of two choices on own counts over all regions alike, as in most proxies.
func TwoAnywhere() Rule {
	return reference("p2c-all", func(v *view) *twoAnywhere { return &twoAnywhere{v} })
}

func (p *twoAnywhere) pick(r *request) (int32, bool) {
	return p.take(p.two(p.all, r, func(m int32) float64 { return float64(p.own[m]) }))
}

type twoNearest struct{ *view }

// TwoNearest is the power of two choices on own counts in the nearest region that has room: one in
// which two tries were not bounced and whose mean reported load is below the soft limit; when there
// is none, the nearest.
func TwoNearest() Rule {
	return reference("p2c-near", func(v *view) *twoNearest { return &twoNearest{v} })
}

func (p *twoNearest) pick(r *request) (int32, bool) {
	own := func(m int32) float64 { return float64(p.own[m]) }
	soft := float64(p.softOf())
	for _, region := range p.order {
		list := p.up[region]
		if float64(p.sum[region]) >= soft*float64(len(list)) || p.bounced(r, region) >= 2 {
			continue
		}
		if m, ok := p.two(list, r, own); ok {
			return p.take(m, true)
		}
	}
	return p.take(p.view.nearest(func(list []int32) (int32, bool) { return p.two(list, r, own) }))
}

func (p *twoNearest) bounced(r *request, region int32) (n int) {
	for _, id := range r.tried {
		if p.region(indexOf(id)) == region {
			n++
		}
	}
	return n
}

type twoByReport struct{ *view }

// TwoByReport is the power of two choices on reported load in the nearest region.
func TwoByReport() Rule {
	return reference("p2c-report", func(v *view) *twoByReport { return &twoByReport{v} })
}

func (p *twoByReport) pick(r *request) (int32, bool) {
	return p.take(p.nearest(func(list []int32) (int32, bool) {
		return p.two(list, r, func(m int32) float64 { return float64(p.said[m]) })
	}))
}

type peakEWMA struct {
	*view
	cost []float64 // seconds
	at   []int64
}

// PeakEWMA is the power of two choices on peak-sensitive smoothed latency times own requests in
// flight, in the nearest region. The smoothing takes 10 s, and a machine of which nothing is known
// costs a second. Errors are not penalised.
func PeakEWMA() Rule {
	return reference("peak-ewma", func(v *view) *peakEWMA {
		n := len(v.own)
		p := &peakEWMA{v, make([]float64, n), make([]int64, n)}
		for i := range p.cost {
			p.cost[i] = 1
		}
		return p
	})
}

const ewmaTau = 10.0 // seconds

func (p *peakEWMA) pick(r *request) (int32, bool) {
	return p.take(p.nearest(func(list []int32) (int32, bool) {
		return p.two(list, r, func(m int32) float64 {
			age := float64(p.s.now-p.at[m]) / 1e9
			return p.cost[m] * math.Exp(-age/ewmaTau) * float64(p.own[m]+1)
		})
	}))
}

func (p *peakEWMA) answer(r *request) {
	p.view.answer(r)
	if r.outcome == balance.OutcomeBounced {
		return
	}
	m, took := r.machine, float64(p.s.now-r.arrived)/1e9
	w := math.Exp(-float64(p.s.now-p.at[m]) / 1e9 / ewmaTau)
	p.at[m] = p.s.now
	if took > p.cost[m] {
		p.cost[m] = took
	} else {
		p.cost[m] = p.cost[m]*w + took*(1-w)
	}
}

type threeClasses struct{ *view }

// ThreeClasses is the rule that a public cloud documents: the nearest region with a machine
// reported below its soft limit, else the nearest with one below its hard limit, and a random one
// of these.
func ThreeClasses() Rule {
	return reference("3-classes", func(v *view) *threeClasses { return &threeClasses{v} })
}

func (p *threeClasses) pick(r *request) (int32, bool) {
	for _, limit := range []int32{p.softOf(), p.hardOf()} {
		m, ok := p.nearest(func(list []int32) (int32, bool) {
			return p.draw(list, r, func(m int32) bool { return p.said[m] < limit })
		})
		if ok {
			return p.take(m, true)
		}
	}
	return 0, false
}
