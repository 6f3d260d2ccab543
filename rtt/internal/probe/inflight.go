package probe

import "time"

// inflight holds the probes of one peer that may still be answered, eight at most. Times are
// monotonic readings since any one origin. The zero value is empty.
//
// A late probe is not a lost one. When a path suddenly becomes longer, say from 37 ms to 600 ms,
// every answer is late for a while: the peer is probed again, and after three overdue probes in a
// row the peer counts as lost. But a probe counts as lost only when no answer has come for as long
// as answers are accepted.
type inflight [8]pending

type pending struct {
	seq   uint64
	nonce uint64
	sent  time.Duration // monotonic
	wall  time.Duration // wall clock at the same moment
	due   time.Duration // when it is overdue, then when it is lost
	phase phase
	path  uint8 // which address of the peer it went to
	put   bool  // due was put off once
}

type phase uint8

const (
	idle    phase = iota // nothing is under way
	waiting              // sent
	overdue              // not answered in time; the answer is still taken
)

// of returns probe seq, nil when it is not under way.
func (fs *inflight) of(seq uint64) *pending {
	for i := range fs {
		if f := &fs[i]; f.phase != idle && f.seq == seq {
			return f
		}
	}
	return nil
}

// free returns the slot for the next probe: an empty one, or that of the oldest probe.
func (fs *inflight) free() *pending {
	oldest := &fs[0]
	for i := range fs {
		f := &fs[i]
		if f.phase == idle {
			return f
		}
		if f.sent < oldest.sent {
			oldest = f
		}
	}
	return oldest
}

// room reports whether a probe may be sent at now: not while eight are under way and the oldest is
// younger than any usual answer. If probes go out faster than answers can come, this keeps the
// first from being forgotten before its answer is there.
func (fs *inflight) room(now time.Duration) bool {
	f := fs.free()
	return f.phase == idle || now-f.sent >= timeoutMax
}

// len returns how many are under way.
func (fs *inflight) len() (n int) {
	for i := range fs {
		if fs[i].phase != idle {
			n++
		}
	}
	return n
}

// add records probe seq. If that pushes out a probe without an answer, lost is true, and so is
// missed if that probe was not even overdue.
func (fs *inflight) add(
	seq, nonce uint64, now, timeout time.Duration, path uint8,
) (missed, lost bool) {
	f := fs.free()
	missed, lost = f.phase == waiting, f.phase != idle
	*f = pending{seq: seq, nonce: nonce, sent: now, due: now + timeout, phase: waiting, path: path}
	return missed, lost
}

// stamp corrects the time at which probe seq was sent.
func (fs *inflight) stamp(seq uint64, mono, wall time.Duration) {
	if f := fs.of(seq); f != nil {
		f.sent, f.wall = mono, wall
	}
}

// due returns when the next probe is overdue or lost, false when none is under way.
func (fs *inflight) due() (at time.Duration, ok bool) {
	for i := range fs {
		if f := &fs[i]; f.phase != idle && (!ok || f.due < at) {
			at, ok = f.due, true
		}
	}
	return at, ok
}

// expire returns how many probes are newly overdue at now, and how many are lost. If the caller
// comes late, the goroutine that reads answers may be late too, with answers waiting in the socket:
// so every probe gets that much longer, once.
func (fs *inflight) expire(now, late time.Duration) (missed, lost int) {
	for i := range fs {
		f := &fs[i]
		if f.phase == idle || f.due > now {
			continue
		}
		if late > 20*time.Millisecond && !f.put {
			f.put = true
			f.due = now + min(late, time.Second)
			continue
		}
		if f.phase == waiting {
			missed++
			f.phase, f.due = overdue, f.until()
		}
		if f.due <= now {
			lost++
			*f = pending{}
		}
	}
	return missed, lost
}

// until is how long an answer to f is accepted.
func (f *pending) until() time.Duration {
	if f.put {
		return f.sent + answerable + time.Second
	}
	return f.sent + answerable
}

// answer takes in an answer that arrived at now. It returns false for an unexpected answer: to no
// probe under way, a second one, one after three seconds, or one to a probe that went elsewhere.
func (fs *inflight) answer(seq, nonce uint64, now time.Duration, path uint8) (f pending, ok bool) {
	s := fs.of(seq)
	if s == nil || s.nonce != nonce || s.path != path || now > s.until() {
		return pending{}, false
	}
	f = *s
	*s = pending{}
	return f, true
}
