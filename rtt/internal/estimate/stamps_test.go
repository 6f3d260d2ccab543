package estimate

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestStampsSample(t *testing.T) {
	const us = time.Microsecond
	for _, row := range []struct {
		name   string
		x      Stamps
		base   time.Duration
		want   time.Duration
		kernel bool
	}{
		{"no stamps at all", Stamps{User: 20 * ms}, 0, 20 * ms, false},
		{"both ends stamped and idle", Stamps{User: 20 * ms, Stamped: true, Queued: 30 * us, FarStamped: true, Residence: 20 * us}, 0, 20*ms - 50*us, true},
		{"a busy host here", Stamps{User: 90 * ms, Stamped: true, Queued: 70 * ms, FarStamped: true}, 0, 20 * ms, true},
		{"a busy host there, base known", Stamps{User: 100 * ms, Stamped: true, FarStamped: true, Residence: 80 * ms}, 20 * ms, 20 * ms, true},
		{"a busy host there, base unknown: half", Stamps{User: 100 * ms, Stamped: true, FarStamped: true, Residence: 80 * ms}, 0, 50 * ms, true},
		{"a liar gains a factor of two at most", Stamps{User: 20 * ms, Stamped: true, FarStamped: true, Residence: 19 * ms}, 10 * ms, 10 * ms, true},
		{"the far end has no kernel stamps", Stamps{User: 20 * ms, Stamped: true, Queued: ms, Residence: ms}, 0, 18 * ms, false},
		{"residence of more than everything", Stamps{User: 20 * ms, Stamped: true, Queued: ms, FarStamped: true, Residence: 25 * ms}, 0, 19 * ms, false},
		{"negative residence", Stamps{User: 20 * ms, Stamped: true, FarStamped: true, Residence: -ms}, 0, 20 * ms, false},
		{"stamp of the future", Stamps{User: 20 * ms, Stamped: true, FarStamped: true, Queued: -ms}, 0, 20 * ms, false},
		{"stamp from before the probe", Stamps{User: 20 * ms, Stamped: true, FarStamped: true, Queued: 20 * ms}, 0, 20 * ms, false},
		{"the clock was set meanwhile", Stamps{User: 20 * ms, Stamped: true, FarStamped: true, Queued: 15 * ms, Drift: ms}, 0, 20 * ms, false},
		{"and set back", Stamps{User: 20 * ms, Stamped: true, FarStamped: true, Queued: 15 * ms, Drift: -ms}, 0, 20 * ms, false},
	} {
		s, ok := row.x.Sample(row.base)
		if !ok || s.RTT != row.want || s.Kernel != row.kernel {
			t.Errorf(
				"%s: %v kernel=%v ok=%v, want %v kernel=%v", row.name, s.RTT, s.Kernel, ok, row.want,
				row.kernel,
			)
		}
	}
	if s, ok := (Stamps{User: 0}).Sample(0); !ok || s.RTT != tick {
		t.Errorf("a coarse clock: %v, %v", s, ok)
	}
	if _, ok := (Stamps{User: -1}).Sample(0); ok {
		t.Error("time went back, but there is a sample")
	}
}

// Whatever the wall clocks and the far end say, a sample is positive and not above what the
// monotonic clock saw.
func TestStampsIsBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := rapid.Custom(func(t *rapid.T) time.Duration {
			if rapid.Bool().Draw(t, "wild") {
				return time.Duration(rapid.Int64().Draw(t, "d"))
			}
			return time.Duration(rapid.Int64Range(-int64(time.Second), int64(time.Second)).Draw(t, "d"))
		})
		x := Stamps{
			User: d.Draw(t, "user"), Queued: d.Draw(t, "queued"), Stamped: rapid.Bool().Draw(t, "stamped"),
			Drift: d.Draw(
				t, "drift",
			), Residence: d.Draw(t, "residence"), FarStamped: rapid.Bool().Draw(t, "far"),
		}
		s, ok := x.Sample(d.Draw(t, "base"))
		if ok != (x.User >= 0 && x.User <= MaxRTT) {
			t.Fatalf("%+v: ok %v", x, ok)
		}
		if ok && (s.RTT <= 0 || s.RTT > max(x.User, tick)) {
			t.Fatalf("%+v: sample %v", x, s.RTT)
		}
	})
}

// Steps of the wall clock of up to an hour, mid-probe, at either end: no sample is below the path's
// true round trip.
func TestClockStepsDoNotShorten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const truth = 20 * ms
		var guard ClockGuard
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
			x := Stamps{
				User: truth + queued, Stamped: guard.Read(read+offset, read), Queued: read + offset - stamp,
				Drift: offset - before, FarStamped: true,
			}
			if s, _ := x.Sample(truth); s.RTT < truth-time.Millisecond {
				t.Fatalf("%v of a path of %v: %+v", s.RTT, truth, x)
			}
		}
	})
}

func TestClockGuard(t *testing.T) {
	var g ClockGuard
	for _, row := range []struct {
		mono, wall time.Duration
		want       bool
	}{
		{0, time.Hour, true},
		{time.Second, time.Hour + time.Second, true},
		{2 * time.Second, time.Hour + 2*time.Second + 600*time.Microsecond, true}, // slewed
		{3 * time.Second, time.Hour + 8*time.Second, false},                       // set
		// may have waited in the socket
		{3*time.Second + 500*ms, time.Hour + 8*time.Second + 500*ms, false},
		{4*time.Second + 1, time.Hour + 9*time.Second + 1, true},
		{5 * time.Second, time.Hour + 3*time.Second, false}, // set back
	} {
		if got := g.Read(row.wall, row.mono); got != row.want {
			t.Errorf("at %v: %v, want %v", row.mono, got, row.want)
		}
	}
}
