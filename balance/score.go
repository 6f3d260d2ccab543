package balance

import "math"

// A score is one number for a machine: the least score of a region is its best machine, so that a
// pick is a minimum over one dense array. Scores are kept up to date on write. From the highest
// bit:
//
//	tier (2) | busy (1) | spare (1) | use (20) | turn (24) | salt (16)
//
// use is the load over the soft limit, as the upper bits of a float32: those of positive floats
// compare like the floats. turn says when the machine was last picked: machines that are equally
// used take turns. salt is hash(node, machine). A score of noUse or more says that the machine
// cannot be used now; its turn and salt are kept.
type score = uint64

const (
	saltBits  = 16
	turnBits  = 24
	lapShift  = saltBits
	useShift  = saltBits + turnBits
	useBits   = 20
	busyShift = useShift + useBits + 1
	tierShift = busyShift + 1

	noUse   score = ^score(0) >> useShift << useShift
	busyBit score = 1 << busyShift
	keep    score = 1<<useShift - 1 // turn and salt
	turnMax       = 1<<turnBits - 1
	// useDrop is how many of a float32's lower bits are dropped: what remains tells loads 1/4000
	// apart.
	useDrop = 31 - useBits
)

func turnOf(w score) uint32 { return uint32(w>>lapShift) & turnMax }
func tierOfScore(w score) Tier {
	if w >= noUse {
		return TierNone
	}
	return Tier(w >> tierShift)
}
func useOf(w score) float32 {
	return math.Float32frombits(uint32(w>>useShift&(1<<useBits-1)) << useDrop)
}

func useCode(u float32) uint32 { return math.Float32bits(u) >> useDrop }

// base holds the parts of a row that matter to the machine's score: tier (3) | soft (20) | hard
// (20).
type base uint64

const (
	baseSoftShift = 3
	baseHardShift = baseSoftShift + 20
	baseNone      = base(TierNone)
	baseRetired   = base(7) // the machine has left; its place in the array may be reused
)

func newBase(t Tier, l Limits) base {
	return base(t) | base(l.Soft)<<baseSoftShift | base(l.Hard)<<baseHardShift
}
func (b base) tier() Tier { return Tier(b & 7) }
func (b base) soft() int  { return int(b >> baseSoftShift & MaxLimit) }
func (b base) hard() int  { return int(b >> baseHardShift & MaxLimit) }

// est holds this node's estimates about a machine, apart from its own requests. From the lowest
// bit: what others have in flight, in 1/256 requests (28) | recent failures as load, in quarters of
// a request (12) | slowness in quarters above one (5) | slow start in sixteenths, 0 for none (4) |
// the owner just said that it is full (1) | on probation (1) | consecutive failures (4) | heard of
// (1) | slots granted plus one, 0 for no grants (6) | it bounced a request because it does not run
// (1) | the owner said that it is soft-cordoned, which the row does not yet say (1).
type est uint64

const (
	othersBits   = 28
	penaltyShift = othersBits
	penaltyBits  = 12
	slowShift    = penaltyShift + penaltyBits
	rampShift    = slowShift + 5
	saidFullBit  = est(1) << (rampShift + 4)
	probeBit     = saidFullBit << 1
	failsShift   = rampShift + 6
	heardBit     = est(1) << (failsShift + 4)
	grantShift   = failsShift + 5
	awayBit      = est(1) << (grantShift + 6)
	cordonedBit  = awayBit << 1

	othersMask  = est(1)<<othersBits - 1
	penaltyMask = (est(1)<<penaltyBits - 1) << penaltyShift
	slowMask    = est(31) << slowShift
	rampMask    = est(15) << rampShift
	failsMask   = est(15) << failsShift
	grantMask   = est(63) << grantShift
	// oddMask selects the parts other than the load that affect a machine's score.
	oddMask = penaltyMask | slowMask | rampMask | saidFullBit | probeBit | grantMask | awayBit | cordonedBit

	maxGrant = 62
)

// othersUnit and penaltyUnit are the parts of a request that the fields count.
const othersUnit, penaltyUnit = 256, 4

func field(x float32, unit, shift, bits int) est {
	return est(min(max(x, 0)*float32(unit)+0.5, float32(uint(1)<<bits-1))) << shift
}
func (e est) others() float32  { return float32(int32(e&othersMask)) / othersUnit }
func (e est) penalty() float32 { return float32(int32(e&penaltyMask>>penaltyShift)) / penaltyUnit }

// slow is the factor by which a grossly slow machine's load counts.
func (e est) slow() float32 { return 1 + float32(int32(e&slowMask>>slowShift))/4 }

// ramp is the part of its soft limit that a machine in slow start takes.
func (e est) ramp() float32 {
	if k := e & rampMask >> rampShift; k > 0 {
		return float32(int32(k)) / 16
	}
	return 1
}
func (e est) fails() int { return int(e & failsMask >> failsShift) }

// grant returns how many slots of the machine the owner has granted to this node that are not used
// yet; ok is false if it does not grant slots.
func (e est) grant() (n int, ok bool) {
	g := int(e & grantMask >> grantShift)
	return g - 1, g > 0
}

func (e est) withOthers(
	x float32,
) est {
	return e&^othersMask | field(x, othersUnit, 0, othersBits)
}
func (e est) withPenalty(x float32) est {
	return e&^penaltyMask | field(x, penaltyUnit, penaltyShift, penaltyBits)
}
func (e est) withFails(n int) est { return e&^failsMask | est(min(n, 15))<<failsShift }

// withSlow sets the factor, from 1 to 8.75.
func (e est) withSlow(f float32) est {
	return e&^slowMask | est(min(max(f-1, 0)*4+0.5, 31))<<slowShift
}

// withRamp sets the part of slow start, above 0; from 1 on it is over.
func (e est) withRamp(part float32) est {
	k := est(max(part*16, 1))
	if k > 15 {
		k = 0
	}
	return e&^rampMask | k<<rampShift
}
func (e est) withGrant(n int, ok bool) est {
	e &^= grantMask
	if ok {
		e |= est(min(max(n, 0), maxGrant)+1) << grantShift
	}
	return e
}

// failed records a failure: it weighs as one request of load, and each failure doubles what is left
// of earlier ones. Fast failures must never make a machine look idle. usual is the share of
// failures at the other machines: if it is high, a failure says little, and it weighs less.
func (e est) failed(usual float32) est {
	part := max((1-usual)*(1-usual), penaltyLeast)
	return e.withPenalty(min((1+part)*e.penalty()+part, penaltyCap)).withFails(e.fails() + 1)
}

// succeeded records a success: the load of failures shrinks, by more if successes are rarer, and a
// probation ends. So the load of failures that happen everywhere does not pile up.
func (e est) succeeded(usual float32) est {
	q := e.penalty() * 7 / 8 * (1 - usual) * (1 - usual)
	if q < 0.5 {
		q = 0
	}
	return e.withPenalty(q).withFails(0) &^ probeBit
}

// probes is how many requests a machine on probation takes: one, and none once that has failed.
func (e est) probes() int { return max(0, 1-e.fails()) }

const (
	// penaltyCap bounds the load that failures count as, in requests.
	penaltyCap = 1 << 10
	// penaltyLeast is the least that a failure counts as, even if all machines fail: otherwise the
	// next request would come to the same machine.
	penaltyLeast = 0.25
	// penaltyBusy is the load of failures from which a machine without a soft limit counts as busy,
	// so that other machines get a part of its requests even if they are far: four failures in a
	// row.
	penaltyBusy = 8
)

// The functions from here on decide what a machine's load is, when it is busy and when it is full.
// Nothing else does: scores, candidates, the means of regions and reservations use them.

// inFlight returns how many requests a machine has in flight, as far as this node knows. own are
// this node's; gate is the exact number if this process owns the machine, else negative.
func inFlight(own, gate int, e est) float32 {
	if gate >= 0 {
		return float32(max(own, gate))
	}
	return float32(own) + e.others()
}

// weighed returns the load by which machines are compared: failures and gross slowness count as
// load, and a machine in slow start has only a part of its soft limit.
func (e est) weighed(inFlight float32) float32 {
	return (inFlight + e.penalty()) * e.slow() / e.ramp()
}

// use returns a load in units of the soft limit, or the load itself if there is none.
func use[F float32 | float64](load F, soft int) F { return load / F(max(1, soft)) }

// atSoft reports whether a load is at the soft limit: others are preferred then.
func atSoft[F float32 | float64](load F, soft int) bool { return soft > 0 && load >= F(soft) }

// overSoft reports whether a load, including the request that asks, is above the soft limit:
// another machine is started then.
func overSoft(load float32, soft int) bool { return soft > 0 && load > float32(soft) }

// full reports whether this node sends the machine nothing more. What is known exactly (own) and
// what the owner grants or just said takes precedence; the estimate counts too, since a bounce
// costs more than a try elsewhere.
func (e est) full(own int, inFlight float32, hard int) bool {
	if own >= MaxLimit || e&awayBit != 0 {
		return true
	}
	if n, ok := e.grant(); ok {
		return n <= 0
	}
	return e&saidFullBit != 0 || e&probeBit != 0 && own >= e.probes() || atHard(inFlight, hard)
}

// atHard reports whether a load is at the hard limit; without one, at the most that a gate can
// count.
func atHard(inFlight float32, hard int) bool {
	if hard == 0 {
		hard = MaxLimit
	}
	return inFlight >= float32(hard)
}

// most returns how many of its own requests this node may have in flight at a machine: what it
// knows exactly. Limits do not matter to a slot that the owner has reserved.
func most(hard int, e est) int {
	limit := MaxLimit
	if hard > 0 && e&grantMask == 0 {
		limit = hard
	}
	if e&probeBit != 0 {
		limit = min(limit, e.probes())
	}
	return limit
}

// scoreOf returns the upper part of a machine's score, without turn and salt.
func scoreOf(b base, own, gate int, e est) score {
	if b.tier() >= tiers {
		return noUse
	}
	load, soft := inFlight(own, gate, e), b.soft()
	if e&oddMask == 0 { // most machines most of the time: full and weighed, inlined
		if atHard(load, b.hard()) {
			return noUse
		}
	} else {
		if e.full(own, load, b.hard()) {
			return noUse
		}
		load = e.weighed(load)
	}
	w := score(b.tier()) << tierShift
	if e&cordonedBit != 0 && b.tier() == TierReady {
		w = score(TierCordoned) << tierShift
	}
	if atSoft(load, soft) || soft == 0 && e.penalty() >= penaltyBusy {
		w |= busyBit
	}
	return w | score(useCode(use(load, soft)))<<useShift
}
