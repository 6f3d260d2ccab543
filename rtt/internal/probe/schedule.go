package probe

import "time"

const (
	// quickProbes of a new peer go out quickGap apart, so that a distance with three samples is
	// known in 200 ms.
	quickProbes = 3
	quickGap    = 100 * time.Millisecond
	// spread is how far the first probe of a new peer may be put off, so that nodes which start
	// together do not probe together.
	spread = 20 * time.Millisecond
	// The timeout of a probe is three times the usual round trip, plus what a scheduler may add,
	// within these bounds. A late answer still counts, and is not a loss, so a short timeout costs
	// little, and a lost peer is detected within a second.
	timeoutMin  = 200 * time.Millisecond
	timeoutMax  = time.Second
	timeoutMore = 50 * time.Millisecond
	// answerable is how long an answer is accepted; after that the probe is lost. It is long for
	// any path that is worth using, so that a path that suddenly becomes much longer does not look
	// like one that loses packets.
	answerable = 3 * time.Second
)

func timeout(base time.Duration, ok bool) time.Duration {
	if !ok {
		return timeoutMax
	}
	return min(max(3*base+timeoutMore, timeoutMin), max(timeoutMax, base+base/2))
}

// jitter scales d by 0.8 to 1.2, so that the probes of a mesh do not synchronize.
func jitter(d time.Duration, random uint64) time.Duration {
	return d*4/5 + time.Duration(float64(d)*2/5*unit(random))
}

// unit turns random bits into a number in [0, 1).
func unit(random uint64) float64 { return float64(random>>11) / (1 << 53) }

// pace is the schedule of one peer.
type pace struct {
	every time.Duration // between steady probes
	quick uint8         // probes still to come at quickGap
	next  time.Time     // when the next probe is due
}

// begin is called for a new peer, and one that moved.
func (p *pace) begin(now time.Time, random uint64) {
	p.quick = quickProbes
	p.next = now.Add(time.Duration(float64(spread) * unit(random)))
}

// sent is called when a probe went out. The first steady probe falls anywhere in its interval.
func (p *pace) sent(now time.Time, random uint64) {
	switch {
	case p.quick > 1:
		p.quick--
		p.next = now.Add(quickGap)
	case p.quick == 1:
		p.quick = 0
		p.next = now.Add(max(quickGap, time.Duration(float64(p.every)*unit(random))))
	default:
		p.next = now.Add(jitter(p.every, random))
	}
}

// missed is called when a probe is overdue and the peer is not yet lost: probing again at once
// tells a lost packet from a lost peer.
func (p *pace) missed(now time.Time) {
	if at := now.Add(quickGap); at.Before(p.next) {
		p.next = at
	}
}

// intervals returns how often near and far peers are probed: as configured, or proportionally
// slower if that would be more than budget probes per second.
func intervals(
	near, far int, nearEvery, farEvery time.Duration, budget float64,
) (time.Duration, time.Duration) {
	budget *= 0.9 // the rest is for new peers and for probing again after a loss
	rate := float64(near)/nearEvery.Seconds() + float64(far)/farEvery.Seconds()
	if rate <= budget {
		return nearEvery, farEvery
	}
	slow := rate / budget
	return time.Duration(float64(nearEvery) * slow), time.Duration(float64(farEvery) * slow)
}

// bucket is a token bucket for probes. It fills with rate per second up to burst.
type bucket struct {
	rate, burst float64
	tokens      float64
	last        time.Time
}

// take takes a token, or returns when there will be one.
func (b *bucket) take(now time.Time) (ok bool, at time.Time) {
	if b.last.IsZero() {
		b.tokens = b.burst
	} else if d := now.Sub(b.last); d > 0 {
		b.tokens = min(b.burst, b.tokens+d.Seconds()*b.rate)
	}
	b.last = now
	if b.tokens >= 1 {
		b.tokens--
		return true, time.Time{}
	}
	// A microsecond more than needed, so that rounding never yields a time that is not later.
	return false, now.Add(time.Duration((1-b.tokens)/b.rate*float64(time.Second)) + time.Microsecond)
}
