package rtt

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestExchangeSample(t *testing.T) {
	const us = time.Microsecond
	for _, row := range []struct {
		name   string
		x      exchange
		base   time.Duration
		want   time.Duration
		kernel bool
	}{
		{"no stamps at all", exchange{user: 20 * ms}, 0, 20 * ms, false},
		{"both ends stamped and idle", exchange{user: 20 * ms, stamped: true, queued: 30 * us, farStamped: true, residence: 20 * us}, 0, 20*ms - 50*us, true},
		{"a busy host here", exchange{user: 90 * ms, stamped: true, queued: 70 * ms, farStamped: true}, 0, 20 * ms, true},
		{"a busy host there, base known", exchange{user: 100 * ms, stamped: true, farStamped: true, residence: 80 * ms}, 20 * ms, 20 * ms, true},
		{"a busy host there, base unknown: half", exchange{user: 100 * ms, stamped: true, farStamped: true, residence: 80 * ms}, 0, 50 * ms, true},
		{"a liar gains a factor of two at most", exchange{user: 20 * ms, stamped: true, farStamped: true, residence: 19 * ms}, 10 * ms, 10 * ms, true},
		{"the far end has no kernel stamps", exchange{user: 20 * ms, stamped: true, queued: ms, residence: ms}, 0, 18 * ms, false},
		{"residence of more than everything", exchange{user: 20 * ms, stamped: true, queued: ms, farStamped: true, residence: 25 * ms}, 0, 19 * ms, false},
		{"negative residence", exchange{user: 20 * ms, stamped: true, farStamped: true, residence: -ms}, 0, 20 * ms, false},
		{"stamp of the future", exchange{user: 20 * ms, stamped: true, farStamped: true, queued: -ms}, 0, 20 * ms, false},
		{"stamp from before the probe", exchange{user: 20 * ms, stamped: true, farStamped: true, queued: 20 * ms}, 0, 20 * ms, false},
		{"the clock was set meanwhile", exchange{user: 20 * ms, stamped: true, farStamped: true, queued: 15 * ms, drift: ms}, 0, 20 * ms, false},
		{"and set back", exchange{user: 20 * ms, stamped: true, farStamped: true, queued: 15 * ms, drift: -ms}, 0, 20 * ms, false},
	} {
		s, ok := row.x.sample(row.base)
		if !ok || s.RTT != row.want || s.Kernel != row.kernel {
			t.Errorf("%s: %v kernel=%v ok=%v, want %v kernel=%v", row.name, s.RTT, s.Kernel, ok, row.want, row.kernel)
		}
	}
	if s, ok := (exchange{user: 0}).sample(0); !ok || s.RTT != tick {
		t.Errorf("a coarse clock: %v, %v", s, ok)
	}
	if _, ok := (exchange{user: -1}).sample(0); ok {
		t.Error("time went back, but there is a sample")
	}
}

// Whatever the wall clocks and the far end say, a sample is positive and not above what the monotonic clock saw.
func TestExchangeIsBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := rapid.Custom(func(t *rapid.T) time.Duration {
			if rapid.Bool().Draw(t, "wild") {
				return time.Duration(rapid.Int64().Draw(t, "d"))
			}
			return time.Duration(rapid.Int64Range(-int64(time.Second), int64(time.Second)).Draw(t, "d"))
		})
		x := exchange{
			user: d.Draw(t, "user"), queued: d.Draw(t, "queued"), stamped: rapid.Bool().Draw(t, "stamped"),
			drift: d.Draw(t, "drift"), residence: d.Draw(t, "residence"), farStamped: rapid.Bool().Draw(t, "far"),
		}
		s, ok := x.sample(d.Draw(t, "base"))
		if ok != (x.user >= 0 && x.user <= maxRTT) {
			t.Fatalf("%+v: ok %v", x, ok)
		}
		if ok && (s.RTT <= 0 || s.RTT > max(x.user, tick)) {
			t.Fatalf("%+v: sample %v", x, s.RTT)
		}
	})
}

// Steps of the wall clock of up to an hour, mid-probe, at either end: no sample moves below the path's true round trip.
func TestClockStepsDoNotShorten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const truth = 20 * ms
		var guard clockGuard
		var offset time.Duration // wall minus monotonic
		now := time.Hour
		for range 50 {
			now += time.Second
			// The answer reached the kernel, the clock was set or not, and the process read it.
			queued := time.Duration(rapid.IntRange(0, 100).Draw(t, "queued")) * ms
			before, at := offset, now
			if rapid.IntRange(0, 4).Draw(t, "set?") == 0 {
				offset += time.Duration(rapid.IntRange(-3600_000, 3600_000).Draw(t, "step")) * ms
			}
			stamp := at + before
			read := at + queued
			x := exchange{
				user: truth + queued, stamped: guard.read(read+offset, read), queued: read + offset - stamp,
				drift: offset - before, farStamped: true,
			}
			if s, _ := x.sample(truth); s.RTT < truth-time.Millisecond {
				t.Fatalf("%v of a path of %v: %+v", s.RTT, truth, x)
			}
		}
	})
}

func TestClockGuard(t *testing.T) {
	var g clockGuard
	for _, row := range []struct {
		mono, wall time.Duration
		want       bool
	}{
		{0, time.Hour, true},
		{time.Second, time.Hour + time.Second, true},
		{2 * time.Second, time.Hour + 2*time.Second + 600*time.Microsecond, true}, // slewed
		{3 * time.Second, time.Hour + 8*time.Second, false},                       // set
		{3*time.Second + 500*ms, time.Hour + 8*time.Second + 500*ms, false},       // may have waited in the socket
		{4*time.Second + 1, time.Hour + 9*time.Second + 1, true},
		{5 * time.Second, time.Hour + 3*time.Second, false}, // set back
	} {
		if got := g.read(row.wall, row.mono); got != row.want {
			t.Errorf("at %v: %v, want %v", row.mono, got, row.want)
		}
	}
}
