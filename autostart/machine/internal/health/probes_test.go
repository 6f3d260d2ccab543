package health

import (
	"testing"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/boots"
)

func TestProbes(t *testing.T) {
	for _, tc := range []struct {
		elapsed  time.Duration
		refusals int
		want     time.Duration
	}{
		{0, 0, 500 * time.Microsecond},
		{-sec, 0, 500 * time.Microsecond},
		{300 * time.Millisecond, 0, 500 * time.Microsecond},
		{10 * sec, 0, 10 * time.Millisecond},
		{10 * sec, 1, 10 * time.Millisecond},
		{sec, 1, 5 * time.Millisecond},
		{sec, 3, 11250 * time.Microsecond},
		{sec, 1 << 30, 50 * time.Millisecond},
		{10 * time.Millisecond, 9, 5 * time.Millisecond},
	} {
		if got := NextLook(tc.elapsed, tc.refusals, Window{}); got != tc.want {
			t.Errorf("after %v and %d refusals: %v, want %v", tc.elapsed, tc.refusals, got, tc.want)
		}
	}
	// How late a look sees the end of a boot: at most 1 ms or 0.2 % of the boot, whatever its length.
	for boot := 100 * time.Microsecond; boot < time.Hour; boot = boot * 11 / 10 {
		at := time.Duration(0)
		looks := 0
		for at < boot {
			at += NextLook(at, 0, Window{})
			looks++
		}
		if late := at - boot; late > max(time.Millisecond, boot/500) || looks > 12_000 {
			t.Fatalf("a boot of %v is seen %v late after %d looks", boot, late, looks)
		}
	}
}

func TestStreak(t *testing.T) {
	var s streak
	got := ""
	for _, r := range "pffpfff.fpfpp" { // p passes, f fails
		if r != '.' && s.add(r == 'p', 3, 2) {
			got += map[bool]string{true: "F", false: "P"}[s.failing]
		} else {
			got += string(r)
		}
	}
	if want := "pffpffF.fpfpP"; got != want {
		t.Errorf("health changes at %s, want %s", got, want)
	}
}

func TestRecentFor(t *testing.T) {
	for want, b := range map[time.Duration]*boots.Boots{20 * sec: bootsOf(0), 5 * sec: bootsOf(0, sec), 30 * sec: bootsOf(0, sec, 30*sec), time.Minute: bootsOf(0, time.Hour)} {
		if got := RecentFor(b); got != want {
			t.Errorf("recent for %v, want %v", got, want)
		}
	}
}

func bootsOf(hint time.Duration, took ...time.Duration) *boots.Boots {
	b := &boots.Boots{Hint: hint}
	for _, d := range took {
		b.Learn(d)
	}
	return b
}

// Where boots are known, their end is looked for in finer steps.
func TestLearnedBootsAreSeenSooner(t *testing.T) {
	var b boots.Boots
	if Likely(&b) != (Window{}) {
		t.Error("a window of nothing")
	}
	for _, d := range []time.Duration{1800, 2000, 2300} {
		b.Learn(d * time.Millisecond)
	}
	likely := Likely(&b)
	for boot := 1700 * time.Millisecond; boot < 2800*time.Millisecond; boot += 137 * time.Microsecond {
		at, looks := time.Duration(0), 0
		for at < boot {
			at += NextLook(at, 0, likely)
			looks++
		}
		if late := at - boot; late > 750*time.Microsecond || looks > 6000 {
			t.Fatalf("a boot of %v is seen %v late, after %d looks", boot, late, looks)
		}
	}
	// and the others as before
	for boot := time.Millisecond; boot < time.Minute; boot = boot * 11 / 10 {
		at := time.Duration(0)
		for at < boot {
			at += NextLook(at, 0, likely)
		}
		if late := at - boot; late > max(time.Millisecond, boot/500) {
			t.Fatalf("a boot of %v is seen %v late", boot, late)
		}
	}
}
