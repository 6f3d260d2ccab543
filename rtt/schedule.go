package rtt

import "time"

const (
	// quickProbes of a new peer go out quickGap apart, so that a distance with three samples is known in 200 ms.
	quickProbes = 3
	quickGap    = 100 * time.Millisecond
	// spread is how far the first probe of a new peer may be put off, so that nodes which start together do not
	// probe together.
	spread = 20 * time.Millisecond
	// timeouts of a probe: three times the usual round trip and what a scheduler may add. A late answer still counts,
	// and is no loss, so a short one costs little, and makes a lost peer known within a second.
	timeoutMin  = 200 * time.Millisecond
	timeoutMax  = time.Second
	timeoutMore = 50 * time.Millisecond
	// answerable is how long an answer is still taken. One that never came by then is a loss: it is generous for any path
	// that is worth using, so that a path which becomes much longer at once does not look like one that loses packets.
	answerable = 3 * time.Second
)

func timeout(base time.Duration, ok bool) time.Duration {
	if !ok {
		return timeoutMax
	}
	return min(max(3*base+timeoutMore, timeoutMin), max(timeoutMax, base+base/2))
}

// jitter spreads d over 0.8 to 1.2 of itself, so that probes of a mesh do not fall into step.
func jitter(d time.Duration, random uint64) time.Duration {
	return d*4/5 + time.Duration(float64(d)*2/5*unit(random))
}

// unit makes of random bits a number in [0, 1).
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

// missed is called when a probe is overdue and the peer is not yet lost: asking again at once tells a lost packet from a
// lost peer.
func (p *pace) missed(now time.Time) {
	if at := now.Add(quickGap); at.Before(p.next) {
		p.next = at
	}
}

// intervals returns how often near and far peers are probed: as configured, or slower in proportion when that would
// be more than budget probes per second.
func intervals(near, far int, nearEvery, farEvery time.Duration, budget float64) (time.Duration, time.Duration) {
	budget *= 0.9 // the rest is for new peers and for asking again after a loss
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

// take takes a token, or says when there will be one.
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
	// A microsecond more than it takes, so that rounding never asks for a moment that is not later.
	return false, now.Add(time.Duration((1-b.tokens)/b.rate*float64(time.Second)) + time.Microsecond)
}

// agenda is a heap of who is due when. Keys are small integers. The zero value is empty.
type agenda struct {
	heap []due
	pos  []int32 // of a key in heap, plus one; 0 means absent
}

type due struct {
	at  time.Time
	key int32
}

// set puts key at the given time, moving it if it is there.
func (a *agenda) set(key int32, at time.Time) {
	for int(key) >= len(a.pos) {
		a.pos = append(a.pos, 0)
	}
	i := int(a.pos[key]) - 1
	if i < 0 {
		i = len(a.heap)
		a.heap = append(a.heap, due{})
	}
	a.put(i, due{at, key})
	a.fix(i)
}

// remove takes key out, if it is there.
func (a *agenda) remove(key int32) {
	if int(key) >= len(a.pos) || a.pos[key] == 0 {
		return
	}
	i := int(a.pos[key]) - 1
	a.pos[key] = 0
	last := a.heap[len(a.heap)-1]
	a.heap = a.heap[:len(a.heap)-1]
	if i < len(a.heap) {
		a.put(i, last)
		a.fix(i)
	}
}

// first returns who is due first.
func (a *agenda) first() (key int32, at time.Time, ok bool) {
	if len(a.heap) == 0 {
		return 0, time.Time{}, false
	}
	return a.heap[0].key, a.heap[0].at, true
}

func (a *agenda) put(i int, d due) {
	a.heap[i] = d
	a.pos[d.key] = int32(i) + 1
}

// fix restores the heap after entry i changed.
func (a *agenda) fix(i int) {
	d := a.heap[i]
	for i > 0 {
		up := (i - 1) / 2
		if !d.at.Before(a.heap[up].at) {
			break
		}
		a.put(i, a.heap[up])
		i = up
	}
	for {
		kid := 2*i + 1
		if kid >= len(a.heap) {
			break
		}
		if kid+1 < len(a.heap) && a.heap[kid+1].at.Before(a.heap[kid].at) {
			kid++
		}
		if !a.heap[kid].at.Before(d.at) {
			break
		}
		a.put(i, a.heap[kid])
		i = kid
	}
	a.put(i, d)
}
