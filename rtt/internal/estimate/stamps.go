package estimate

import "time"

// Stamps are the times that were taken of one probe and its answer.
type Stamps struct {
	User time.Duration // monotonic: from just before the send to just after the read
	// wall clock: from the kernel's receive stamp to the read; only with stamped
	Queued     time.Duration
	Stamped    bool          // the kernel stamped the answer
	Drift      time.Duration // how much further the wall clock went than the monotonic one, meanwhile
	Residence  time.Duration // how long the far end says it held the probe
	FarStamped bool          // the far end says its kernel stamped the probe
}

// maxDrift is how far the two clocks may part during one round trip. More means the wall clock was
// set, and the kernel's stamp, which is wall clock, cannot be compared with anything. 250 µs: two
// readings apart by a preemption stay below it mostly, and when not only this sample falls back.
// The share allows for a clock being slewed (NTP: 0.05 %).
func maxDrift(user time.Duration) time.Duration { return 250*time.Microsecond + user/1000 }

// Sample computes the round trip. Whatever the wall clocks or the far end say, it is positive and
// not above user (or 100 ns): a stamp or a claim can only shorten what the monotonic clock saw,
// and what cannot be true is left out.
//
// The far end's claim is believed up to half of the round trip, so that a lying peer gains a
// factor of two at most. A busy host holds packets for far more than half of it; its claim is
// believed whole when the round trip is more than four times the base, which a constant lie never
// makes it.
func (x Stamps) Sample(base time.Duration) (Sample, bool) {
	if x.User < 0 || x.User > MaxRTT {
		return Sample{}, false
	}
	s := Sample{RTT: max(x.User, tick), Source: SourceUDP} // a coarse clock may not have moved
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

// Read takes a pair of readings and reports whether kernel stamps can be trusted. After a step
// they are not for a second: packets that waited in a socket meanwhile bear stamps of the old
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
