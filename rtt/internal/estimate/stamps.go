package estimate

import "time"

// Stamps are the times that were taken of one probe and its answer.
type Stamps struct {
	User time.Duration // monotonic: from just before the send to just after the read
	// wall clock: from the kernel's receive stamp to the read; only with stamped
	Queued     time.Duration
	Stamped    bool          // the kernel stamped the answer
	Drift      time.Duration // how much further the wall clock advanced than the monotonic one
	Residence  time.Duration // how long the far end says it held the probe
	FarStamped bool          // the far end says its kernel stamped the probe
}

// maxDrift is how far the two clocks may diverge during one round trip. More means that the wall
// clock was set, and the kernel's timestamp, which is wall clock, cannot be compared with anything.
// 250 µs: two readings that a preemption separates mostly stay below it, and if not, only this
// sample falls back to user-space timing. The share allows for a clock that is slewed (NTP: 0.05
// %).
func maxDrift(user time.Duration) time.Duration { return 250*time.Microsecond + user/1000 }

// Sample computes the round trip. Whatever the wall clocks or the far end say, it is positive and
// not above User (or 100 ns): a timestamp or a claim can only shorten what the monotonic clock saw,
// and impossible values are ignored.
//
// The far end's claim is accepted up to half of the round trip, so that a lying peer gains a factor
// of two at most. A busy host holds packets for far more than half of it. Its claim is accepted in
// full when the round trip is more than four times the base, which a constant lie never achieves.
func (x Stamps) Sample(base time.Duration) (Sample, bool) {
	if x.User < 0 || x.User > MaxRTT {
		return Sample{}, false
	}
	s := Sample{RTT: max(x.User, tick), Source: SourceUDP} // a coarse clock may not have advanced
	steady := x.Drift <= maxDrift(x.User) && -x.Drift <= maxDrift(x.User)
	if x.Stamped && steady && x.Queued >= 0 && x.Queued < x.User {
		s.RTT -= x.Queued
		s.Kernel = x.FarStamped
	}
	r := x.Residence
	if r < 0 || r >= s.RTT {
		s.Kernel = false // impossible: a clock was set at the far end, or it lies
		return s, true
	}
	if r > s.RTT/2 && (base <= 0 || s.RTT <= 4*base) {
		r = s.RTT / 2
	}
	s.RTT -= r
	return s, true
}

// ClockGuard notices when the wall clock of this host is set, so that kernel stamps from before
// are not compared with readings from after. The zero value is ready.
type ClockGuard struct {
	offset  time.Duration // wall minus monotonic, at the last reading
	at      time.Duration // monotonic, of the last reading
	stepped time.Duration // monotonic, of the last step seen
	seen    bool
	broken  bool
}

// Read takes a pair of readings and reports whether kernel timestamps can be trusted. After a step
// they cannot for a second: packets that waited in a socket meanwhile carry timestamps of the old
// clock.
func (g *ClockGuard) Read(wall, mono time.Duration) bool {
	offset := wall - mono
	if g.seen {
		d := offset - g.offset
		if limit := maxDrift(mono - g.at); d > limit || -d > limit {
			g.stepped, g.broken = mono, true
		}
	}
	g.offset, g.at, g.seen = offset, mono, true
	if g.broken && mono-g.stepped > time.Second {
		g.broken = false
	}
	return !g.broken
}
