package sim

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// view is what an edge of a reference rule knows: rows and reports as they came, and its own
// counts.
type view struct {
	s     *Sim
	e     *edge
	rand  *rng
	order []int32   // regions with machines, by assumed round trip
	up    [][]int32 // machines that the rows call started, by region
	all   []int32   // the same over all regions
	seq   []uint64  // of the rows
	own   []int32   // own requests in flight, by machine
	said  []int32   // in flight by the last report
	sum   []int64   // of said, by region
	full  []int64   // with a waiting room: when a machine that bounced may be tried again
	roomy bool
}

// reference makes the rule of a picker that embeds a view.
func reference[P any](name string, build func(*view) P) Rule {
	return Rule{Name: name, build: func(s *Sim, e *edge) (picker, error) {
		n := len(s.machines)
		v := &view{
			s:    s,
			e:    e,
			rand: newRng(s.seed, forRule, int(e.index)),
			up:   make([][]int32, len(s.regions)),
			seq:  make([]uint64, n),
			own:  make([]int32, n),
			said: make([]int32, n),
			sum:  make([]int64, len(s.regions)),
			full: make([]int64, n),
		}
		for r, machines := range s.regions {
			if len(machines) > 0 {
				v.order = append(v.order, int32(r))
			}
		}
		slices.SortStableFunc(v.order, func(a, b int32) int {
			return cmp.Compare(s.w.Believed[e.region][a], s.w.Believed[e.region][b])
		})
		for i := range s.machines {
			v.set(int32(i), s.machines[i].row.State == balance.StateStarted)
		}
		return any(build(v)).(picker), nil
	}}
}

func (v *view) region(m int32) int32 { return v.s.machines[m].region }

// set puts a machine into the lists or takes it out.
func (v *view) set(m int32, up bool) {
	for _, list := range []*[]int32{&v.up[v.region(m)], &v.all} {
		i, held := slices.BinarySearch(*list, m)
		switch {
		case up && !held:
			*list = slices.Insert(*list, i, m)
		case !up && held:
			*list = slices.Delete(*list, i, i+1)
		}
	}
}

func (v *view) row(r *sentRow) {
	if r.version.Seq <= v.seq[r.machine] {
		return
	}
	v.seq[r.machine] = r.version.Seq
	v.set(r.machine, r.row.State == balance.StateStarted && r.row.Cordon != balance.CordonHard)
	v.roomy = true
}

func (v *view) report(m int32, l *balance.Load, _ int) {
	v.sum[v.region(m)] += int64(int32(l.InFlight) - v.said[m])
	v.said[m] = int32(l.InFlight)
	v.roomy = true
}

func (v *view) answer(r *request) {
	v.own[r.machine]--
	switch {
	case r.outcome != balance.OutcomeBounced:
		v.roomy, v.full[r.machine] = true, 0
	case v.s.w.Queue: // else waiting requests would be bounced again and again
		v.full[r.machine] = v.s.now + int64(tickEvery)
	}
}

func (v *view) tick(time.Time) { v.roomy = true }

func (v *view) room() bool {
	was := v.roomy
	v.roomy = false
	return was
}

func (v *view) take(m int32, ok bool) (int32, bool) {
	if ok {
		v.own[m]++
	}
	return m, ok
}

// out reports whether a machine is excluded: this request tried it, or it just bounced another
// waiting request.
func (v *view) out(r *request, m int32) bool {
	return v.full[m] > v.s.now || len(r.tried) > 0 && slices.Contains(r.tried, v.s.machines[m].id)
}

// draw draws a machine that is not excluded and for which ok, if given, holds.
func (v *view) draw(list []int32, r *request, ok func(m int32) bool) (int32, bool) {
	if len(list) == 0 {
		return 0, false
	}
	fits := func(m int32) bool { return !v.out(r, m) && (ok == nil || ok(m)) }
	for range 4 {
		if m := list[v.rand.intn(len(list))]; fits(m) {
			return m, true
		}
	}
	// Few fit: count them, then take one.
	n := 0
	for _, m := range list {
		if fits(m) {
			n++
		}
	}
	if n == 0 {
		return 0, false
	}
	k := v.rand.intn(n)
	for _, m := range list {
		if fits(m) {
			if k == 0 {
				return m, true
			}
			k--
		}
	}
	return 0, false
}

// two draws two machines and returns the one with the lower score.
func (v *view) two(list []int32, r *request, score func(m int32) float64) (int32, bool) {
	a, ok := v.draw(list, r, nil)
	if !ok {
		return 0, false
	}
	b, ok := v.draw(list, r, func(m int32) bool { return m != a })
	if ok && score(b) < score(a) {
		return b, true
	}
	return a, true
}

// nearest returns what pick finds in the nearest region where it finds anything.
func (v *view) nearest(pick func(list []int32) (int32, bool)) (int32, bool) {
	for _, r := range v.order {
		if m, ok := pick(v.up[r]); ok {
			return m, true
		}
	}
	return 0, false
}

func (v *view) softOf() int32 {
	if soft := v.s.w.Limits.Soft; soft > 0 {
		return int32(soft)
	}
	return math.MaxInt32
}

func (v *view) hardOf() int32 {
	if hard := v.s.w.Limits.Hard; hard > 0 {
		return int32(hard)
	}
	return math.MaxInt32
}
