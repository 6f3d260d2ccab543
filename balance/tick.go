package balance

import (
	"math"
	"time"
)

// age lets what is believed of all machines age to the tick, and moves outliers between the tiers. It returns false when
// another balancer over the same fleet has done it already.
func (f *Fleet) age(tick int64) bool {
	turned, ok := f.ageAll(tick)
	for id, ms := range turned {
		f.retier(id, ms)
	}
	return ok
}

func (f *Fleet) ageAll(tick int64) (turned map[AppID][]MachineID, ok bool) {
	f.ageing.Lock()
	defer f.ageing.Unlock()
	if tick <= f.aged {
		return nil, false
	}
	dt := tick - f.aged
	if f.aged == 0 {
		dt = 1
	}
	f.aged = tick
	for id, a := range *f.apps.Load() {
		s := a.snap.Load()
		if a.rest.Load() == s {
			continue
		}
		granted := a.granted.Load()
		if granted > 0 && tick-granted >= lapse {
			a.granted.CompareAndSwap(granted, 0)
		}
		var ms []MachineID
		rests := granted == 0
		j := &jury{record: &a.record, tick: tick, share: f.eject}
		for _, r := range s.regions {
			j.out += len(r.byTier[TierFailing])
			j.usable += len(r.byTier[TierReady]) + len(r.byTier[TierFailing])
		}
		for _, r := range s.regions {
			r.area.granted = granted > 0 && tick-granted < lapse
			var moving bool
			ms, moving = r.step(ms, dt, int64(s.app.SlowStart/tickEvery), j)
			rests = rests && !moving
		}
		a.record.close()
		if rests {
			a.rest.Store(s)
		}
		if len(ms) > 0 {
			if turned == nil {
				turned = map[AppID][]MachineID{}
			}
			turned[id] = ms
		}
	}
	return turned, true
}

// retier derives the tiers of some machines anew: this node has ejected them as outliers, or let them back.
func (f *Fleet) retier(id AppID, ms []MachineID) {
	var touched []AppID
	f.locked(func() error {
		if _, ok := (*f.apps.Load())[id]; !ok {
			return nil // removed meanwhile
		}
		b := f.batch()
		d := b.draft(id)
		for _, id := range ms {
			if m := d.held(id); m != nil {
				d.store(d.region(m.shared.region), m.unpack(), m.version(), m)
			}
		}
		touched = b.commit()
		return nil
	})
	f.notify(touched)
}

// step ages a region's machines, gathers its means, and appends those that have become or ceased to be outliers. It reports
// whether another tick would change anything.
func (r *regionRows) step(turned []MachineID, dt, ramp int64, j *jury) ([]MachineID, bool) {
	a, tick := r.area, j.tick
	if a.tick > 0 && a.tick < tick {
		dt = tick - a.tick // it may have rested
	}
	a.tick, a.dt, a.ramp = tick, float32(dt), ramp
	if a.gap == 0 {
		a.gap = 5
	}
	var sum gathered
	sum.least = math.MaxFloat32
	for _, m := range r.rows {
		if m == nil || m.tier >= tiers && m.cell.mem.Load() == nil {
			continue
		}
		turned = m.age(turned, a, &sum, j)
	}
	a.take(&sum)
	if a.turn.Load() > turnMax/2 {
		a.rewind(r)
	}
	return turned, sum.moving
}

// gathered are the sums over a region's machines at one tick.
type gathered struct {
	ready, heard, news, sent, own int
	load, others, use, least      float32
	soft                          int
	moving                        bool // something can be picked, is in flight, or has not aged to its end
}

func (m *row) age(turned []MachineID, a *area, sum *gathered, j *jury) []MachineID {
	c := m.cell
	if mem := c.mem.Load(); mem != nil {
		if t := mem.tickets.Load(); t != nil {
			t.expire(c, a.tick)
		}
	}
	old, seen, n := est(c.est.Load()), c.seen.Load(), c.count.Load()
	own, sent := int(n&ownMask), uint32(n/sentUnit)&sentMask
	mem := c.mem.Load()
	e := old
	switch {
	case mem == nil && seen == 0 && sent == 0 && e&^othersMask == 0: // nothing happened yet
		e = e.withOthers(a.mean)
	default:
		mem = c.remember()
		news := seen != mem.seen
		taken := int((sent - mem.sent) & sentMask)
		e = mem.step(e, seen, own, m.shared.limits.Hard, sent, a.around)
		if mem.note(sent-uint32(own), mem.fails.Load(), mem.void.Load(), j.record) && e.penalty() > mem.most() {
			e = e.withPenalty(mem.most())
		}
		if started := mem.started.Load(); started > 0 {
			part := a.rampAt(started)
			if part >= 1 {
				mem.started.Store(0)
			}
			e = e.withRamp(part)
		}
		if n, granted := e.grant(); granted {
			e = e.withGrant(n, a.granted || n > 0)
		}
		if m.tier == TierReady {
			sum.sent += taken
			if news {
				sum.news++
			}
			if seen != 0 && mem.age <= max(staleTicks, staleGaps*a.gap) {
				sum.heard++
				sum.others += float32(seen & seenMask)
			}
		}
		turned, e = j.judge(turned, m, mem, e)
	}
	if m.tier < tiers || own > 0 || e != old || mem != nil && mem.out.Load() {
		sum.moving = true
	}
	if e != old && c.est.CompareAndSwap(uint64(old), uint64(e)) {
		c.changed()
	} else if c.word.Load()&^keep != c.score(c.count.Load()) {
		c.rescore(c.count.Load())
	}
	if m.tier == TierReady {
		total := float32(own) + e.others()
		if c.gate != nil {
			total = float32(max(own, c.gate.InFlight()))
		}
		use := total / float32(max(1, m.shared.limits.Soft))
		sum.ready++
		sum.own += own
		sum.load += total
		sum.use += use
		sum.least = min(sum.least, use)
		sum.soft += m.shared.limits.Soft
	}
	return turned
}

// take makes means of the sums.
func (a *area) take(s *gathered) {
	a.ready, a.limits = s.ready, s.soft > 0
	if s.heard > 0 {
		a.mean = s.others / float32(s.heard)
	}
	a.now.Store(math.Float32bits(a.mean))
	if s.news > 0 {
		gap := min(max(a.dt*float32(s.ready)/float32(s.news), 1), 100)
		a.gap += (gap - a.gap) * min(1, 0.2*a.dt)
	}
	keep := 1 - fading(a.dt, memoryTicks)
	a.stays.own = a.stays.own*keep + float32(s.own)*a.dt
	a.stays.taken = a.stays.taken*keep + float32(s.sent)
	a.stay = 0
	if a.stays.taken >= 1 {
		a.stay = a.stays.own / a.stays.taken
	}
	a.load, a.use, a.own, a.least = 0, 0, 0, 0
	if s.ready > 0 {
		n := float32(s.ready)
		a.load, a.use, a.own, a.least = s.load/n, s.use/n, float32(s.own)/n, s.least
	}
}

// rewind begins the turns anew before they overflow.
func (a *area) rewind(r *regionRows) {
	for _, m := range r.rows {
		if m != nil {
			w := m.cell.word
			w.Store(w.Load() &^ (turnMax << lapShift))
			m.cell.rescore(m.cell.count.Load())
		}
	}
	a.turn.Store(1)
}

// stayed returns the mean stay as a time.
func (a *area) stayed() time.Duration { return time.Duration(a.stay * float32(tickEvery)) }
