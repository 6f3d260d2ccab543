package rtt

import "time"

// flights are the probes of one peer that may still be answered, the last eight. Times are monotonic readings since
// any one origin. The zero value is empty.
type flights [8]flight

type flight struct {
	seq   uint64
	nonce uint64
	sent  time.Duration // monotonic
	wall  time.Duration // wall clock at the same moment
	due   time.Duration // when it is given up
	phase phase
	path  uint8 // which address of the peer it went to
	put   bool  // due was put off once
}

type phase uint8

const (
	landed  phase = iota // nothing is under way
	flying               // sent
	overdue              // given up; a late answer is still taken
)

func (fs *flights) slot(seq uint64) *flight { return &fs[seq%uint64(len(fs))] }

// launch notes probe seq, and reports whether it pushed out one that was neither answered nor given up.
func (fs *flights) launch(seq, nonce uint64, now, timeout time.Duration, path uint8) (lost bool) {
	f := fs.slot(seq)
	lost = f.phase == flying
	*f = flight{seq: seq, nonce: nonce, sent: now, due: now + timeout, phase: flying, path: path}
	return lost
}

// stamp corrects the time probe seq was sent at.
func (fs *flights) stamp(seq uint64, mono, wall time.Duration) {
	if f := fs.slot(seq); f.seq == seq {
		f.sent, f.wall = mono, wall
	}
}

// due returns when the next probe is to be given up, false when none is flying.
func (fs *flights) due() (at time.Duration, ok bool) {
	for i := range fs {
		if f := &fs[i]; f.phase == flying && (!ok || f.due < at) {
			at, ok = f.due, true
		}
	}
	return at, ok
}

// expire gives up what is overdue at now and returns how many that are. When the caller comes late, then so did
// whoever reads answers: they may be waiting in the socket. So probes get as much longer, once.
func (fs *flights) expire(now, late time.Duration) (n int) {
	for i := range fs {
		f := &fs[i]
		if f.phase != flying || f.due > now {
			continue
		}
		if late > 20*time.Millisecond && !f.put {
			f.put = true
			f.due = now + min(late, time.Second)
			continue
		}
		f.phase = overdue
		n++
	}
	return n
}

// land takes in an answer that arrived at now. It is false for one nobody waits for: of another probe, the second,
// after three seconds, or of a probe that went elsewhere.
func (fs *flights) land(seq, nonce uint64, now time.Duration, path uint8) (f flight, late, ok bool) {
	s := fs.slot(seq)
	if s.seq != seq || s.nonce != nonce || s.path != path || s.phase == landed || now-s.sent > answerable {
		return flight{}, false, false
	}
	f = *s
	*s = flight{}
	return f, f.phase == overdue, true
}
