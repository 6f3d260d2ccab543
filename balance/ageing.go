package balance

import "math"

// history is what the ticks have recorded about one machine. Times are in ticks.
type history struct {
	seen  uint64  // what was heard last, as it stands in the cell
	age   float32 // since then
	usual float32 // what others usually have there, by recent updates
	sent  uint32  // requests sent until the last tick
	own   float32 // fading sums of what was in flight here at each tick,
	taken float32 // and of the requests sent
	away  float32 // for how long it has been excluded because it does not run
	answers
}

// regionHistory is what the ticks have recorded about a region, for ageing its machines.
type regionHistory struct {
	dt   float32 // ticks since the last time
	tick int64
	mean float32 // what others have at a machine, averaged over those that were heard of lately
	gap  float32 // between two updates about one machine
	stay float32 // of a request, in ticks; 0 when unknown
	ramp int64   // how long slow start takes

	granted bool // owners of the app's machines grant their slots
}

// The constants of ageing. Those that concern others' load are multiples of the measured gap
// between two updates: a constant time oscillates as soon as the updates are later than it.
const (
	// fadeGaps is how many gaps it takes until what a reply said has faded into what is usual at
	// the machine. It is slow: with 4 gaps requests that stay for 2 s are bounced three times as
	// often.
	fadeGaps = 16
	// usualGaps is how many gaps the usual load covers. Late reports move estimates only through
	// it: if nodes used them at once, they would herd. A longer average forgets which machines are
	// full: with 20 gaps bounces double.
	usualGaps = 2
	// staleGaps is the number of gaps after which, at least staleTicks, what was heard of a machine
	// has expired.
	staleGaps, staleTicks = 20, 50
	// awayTicks is how long a machine that bounced a request because it does not run is excluded if
	// nothing more is heard.
	awayTicks = 50
	// memoryTicks is how long the averages of slowness remember: 8 s.
	memoryTicks = 80
	// slowFrom is how many times its region's mean stay a machine's requests must stay before it
	// counts as slow. Below it the noise of heavy tails would be taken for slowness.
	slowFrom = 2
	// slowSample is how many requests are needed before a machine can count as slow.
	slowSample = 8
	// penaltyHalf is how many ticks halve the load that failures count as: 1 s.
	penaltyHalf = 10
)

// fadeFast replaces fadeGaps for a machine that serves a few requests at a time: its load jumps
// between idle and full.
const fadeFast = 2

func (a regionHistory) fade() float32 { return fading(a.dt, fadeGaps*a.gap) }
func fading(dt, tau float32) float32  { return 1 - float32(math.Exp(-float64(dt/tau))) }

// step ages what is known of one machine. own is in flight here now, sent counts all requests so
// far.
func (p *history) step(e est, seen uint64, own, hard int, sent uint32, a regionHistory) est {
	e &^= saidFullBit // a machine that said "full" is left out for a moment only
	if e&awayBit == 0 {
		p.away = 0
	} else if p.away += a.dt; p.away > awayTicks {
		e, p.away = e&^awayBit, 0
	}
	p.hear(seen, a)
	e = p.fadeOthers(e, own, hard, seen, a)
	if q := e.penalty(); q > 0 {
		e = e.withPenalty(forget(q, p.slowed(a.tick, int64(a.dt))))
	}
	keep := 1 - fading(a.dt, memoryTicks)
	taken := (sent - p.sent) & sentMask
	p.own = p.own*keep + float32(own)*a.dt
	p.taken = p.taken*keep + float32(taken)
	p.sent = sent
	e = e.withSlow(p.slowness(own, a))
	return e
}

// hear takes in what the owner said since the last tick.
func (p *history) hear(seen uint64, a regionHistory) {
	switch {
	case seen == p.seen:
		p.age += a.dt
		return
	case p.seen == 0:
		p.usual = float32(seen & seenMask)
	default:
		p.usual += (float32(seen&seenMask) - p.usual) * min(1, (p.age+a.dt)/(usualGaps*a.gap))
	}
	p.seen, p.age = seen, 0
}

// fadeOthers moves the estimate of what others have towards what is usual: at the machine, or, if
// nothing was heard of it for long, in its region. A machine that holds requests of this node and
// is silent may be stuck: it must not look average.
func (p *history) fadeOthers(e est, own, hard int, seen uint64, a regionHistory) est {
	others := e.others()
	switch {
	case seen == 0:
		others = a.mean
	case p.age > max(staleTicks, staleGaps*a.gap):
		p.usual += (a.mean - p.usual) * fading(a.dt, staleTicks)
		if own == 0 || others < a.mean { // never as idle
			others = a.mean
		}
	case p.age == 0 && seen&replyBit != 0: // fresh
	case own > 0 && p.age > 2*a.gap && others > p.usual:
	default:
		fade := a.fade()
		if (Limits{Hard: hard}).Granted() {
			fade = fading(a.dt, fadeFast*a.gap)
		}
		others = towards(others, p.usual, fade)
	}
	return e.withOthers(others)
}

// forget returns the load of failures that is left after some ticks. It is rounded down: otherwise
// a residue would remain and exclude the machine for good.
func forget(q, dt float32) float32 {
	if dt == 0 {
		return q
	}
	q *= float32(math.Exp2(-float64(dt) / penaltyHalf))
	return float32(math.Floor(float64(q)*penaltyUnit)) / penaltyUnit
}

// towards moves x by a part of the way, and by no less than an estimate can represent: otherwise
// small steps would be lost.
func towards(x, to, part float32) float32 {
	step := (to - x) * part
	switch {
	case step > 0:
		return min(x+max(step, 1.0/othersUnit), to)
	case step < 0:
		return max(x+min(step, -1.0/othersUnit), to)
	}
	return x
}

// slowness returns, by Little's law, how long requests stay at the machine compared with its
// region, as a factor on its load.
func (p *history) slowness(own int, a regionHistory) float32 {
	if a.stay <= 0 || p.own < slowFrom*a.stay || p.taken+float32(own) < slowSample && p.own < slowSample*slowFrom*a.stay {
		return 1
	}
	return max(1, p.own/max(p.taken, 1)/a.stay/slowFrom)
}

// rampFrom is the part of its soft limit that a machine takes when slow start begins.
const rampFrom = 0.1

// rampAt is that part at a later tick; 1 ends it.
func (a regionHistory) rampAt(started int64) float32 {
	if a.ramp <= 0 || a.tick-started >= a.ramp {
		return 1
	}
	return max(rampFrom, float32(a.tick-started)/float32(a.ramp))
}
