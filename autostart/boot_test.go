package autostart

import (
	"fmt"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func boots(hint time.Duration, took ...time.Duration) *Boots {
	b := &Boots{Hint: hint}
	for _, d := range took {
		b.Learn(d)
	}
	return b
}

func TestBoots(t *testing.T) {
	for _, tc := range []struct {
		name                             string
		b                                *Boots
		expected, longest, suspect, wait time.Duration
	}{
		{"nothing is known", boots(0), 180 * sec, 180 * sec, 180 * sec, 195 * sec},
		{"a hint is one boot", boots(8 * sec), 8 * sec, 8 * sec, 16 * sec, 31 * sec},
		{"a hint beside boots", boots(8*sec, 2*sec, 3*sec), 3 * sec, 8 * sec, 16 * sec, 31 * sec},
		{"fast boots", boots(0, 50*time.Millisecond), 50 * time.Millisecond, 50 * time.Millisecond, 2 * sec, 17 * sec},
		{"very slow boots", boots(0, 20*time.Minute), 20 * time.Minute, 20 * time.Minute, 10 * time.Minute, 20*time.Minute + 15*sec},
		{"negative boots teach nothing", boots(0, -sec), 180 * sec, 180 * sec, 180 * sec, 195 * sec},
		{"a huge hint", boots(1 << 62), 1 << 62, 1 << 62, 10 * time.Minute, 24*time.Hour + 15*sec},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := [...]time.Duration{tc.b.Expected(), tc.b.Longest(), tc.b.Suspect(), tc.b.Wait()}
			want := [...]time.Duration{tc.expected, tc.longest, tc.suspect, tc.wait}
			if got != want {
				t.Errorf("expected, longest, suspect, wait: %v, want %v", got, want)
			}
		})
	}
	old := boots(time.Hour, time.Hour)
	for range bootsKept {
		old.Learn(sec)
	}
	if old.Longest() != sec {
		t.Errorf("longest %v after 32 boots of 1s: the hint and what was before are forgotten", old.Longest())
	}
	b := boots(0, 10*sec, 10*sec, 20*sec)
	for age, want := range map[time.Duration]time.Duration{0: 10 * sec, 4 * sec: 6 * sec, 10 * sec: 10 * sec, 39 * sec: sec, 41 * sec: sec, -sec: 11 * sec} {
		if got := b.Remaining(age); got != want {
			t.Errorf("remaining at %v: %v, want %v", age, got, want)
		}
	}
	for age, want := range map[time.Duration]time.Duration{-sec: sec, 0: sec, 4 * sec: 4 * sec, time.Hour: 30 * sec} {
		if got := boots(0).Remaining(age); got != want {
			t.Errorf("nothing known, remaining at %v: %v, want %v", age, got, want)
		}
	}
}

func TestBootsProperties(t *testing.T) {
	durations := rapid.Int64Range(0, int64(20*time.Minute))
	rapid.Check(t, func(t *rapid.T) {
		b := boots(time.Duration(durations.Draw(t, "hint")))
		for _, d := range rapid.SliceOfN(durations, 0, 50).Draw(t, "boots") {
			b.Learn(time.Duration(d))
		}
		if l := b.Suspect(); l < suspectMin || l > suspectMax && b.Known() {
			t.Fatalf("suspect after %v: want between %v and %v", l, suspectMin, suspectMax)
		}
		if b.Wait() < waitMin || b.Expected() > b.Longest() || b.Remaining(time.Duration(durations.Draw(t, "age"))) <= 0 {
			t.Fatalf("wait %v, expected %v, longest %v", b.Wait(), b.Expected(), b.Longest())
		}
		before := *b
		b.Learn(before.Longest() + 1)
		if b.Known() && before.Known() && b.Suspect() < before.Suspect() {
			t.Fatalf("a longer boot lowered the limit from %v to %v", before.Suspect(), b.Suspect())
		}
	})
}

func TestBootBookForgetsOldRevisions(t *testing.T) {
	var k bootBook
	for i := range 100 {
		k.learn(bootKey{revision: string(rune('a' + i)), kind: Cold}, time.Duration(i+1)*sec)
		k.learn(bootKey{revision: "steady", kind: Cold}, sec)
	}
	if len(k.recent) != revisionsKept {
		t.Errorf("%d revisions are kept, want %d", len(k.recent), revisionsKept)
	}
	if got := k.of(bootKey{revision: "steady"}).Longest(); got != sec {
		t.Errorf("longest of the revision in use: %v, want 1s", got)
	}
	if got := k.of(bootKey{revision: "never seen"}); got != &k.all[Cold] {
		t.Error("of a new revision all speak")
	}
}

func TestBackoff(t *testing.T) {
	for n, want := range map[int]time.Duration{-1: sec, 0: sec, 1: sec, 2: 2 * sec, 3: 4 * sec, 6: 32 * sec, 7: 60 * sec, 1 << 30: 60 * sec} {
		low, mid, high := backoff(n, 0), backoff(n, 1<<63), backoff(n, 1<<64-1)
		if low != want*4/5 || mid != want || high <= mid || high > want*6/5 {
			t.Errorf("failure %d: %v %v %v, want %v give or take a fifth", n, low, mid, high, want)
		}
	}
}

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
		if got := nextProbe(tc.elapsed, tc.refusals, window{}); got != tc.want {
			t.Errorf("after %v and %d refusals: %v, want %v", tc.elapsed, tc.refusals, got, tc.want)
		}
	}
	// What a look sees late: at most 1 ms or 0.2 % of the boot, whatever the boot.
	for boot := 100 * time.Microsecond; boot < time.Hour; boot = boot * 11 / 10 {
		at := time.Duration(0)
		looks := 0
		for at < boot {
			at += nextProbe(at, 0, window{})
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
	for want, b := range map[time.Duration]*Boots{20 * sec: boots(0), 5 * sec: boots(0, sec), 30 * sec: boots(0, sec, 30*sec), time.Minute: boots(0, time.Hour)} {
		if got := recentFor(b); got != want {
			t.Errorf("recent for %v, want %v", got, want)
		}
	}
}

func TestRegionOrder(t *testing.T) {
	have := []string{"fra", "hkg", "nrt", "syd"}
	for _, tc := range []struct {
		name    string
		regions []string
		nearest string
		have    []string
		first   []string // the rest is in an order of its own
	}{
		{"the nearest is home", nil, "nrt", have, []string{"nrt"}},
		{"the app's list rules", []string{"hkg", "fra"}, "nrt", have, []string{"hkg", "fra"}},
		{"of the list what has machines", []string{"gru", "fra", "fra"}, "nrt", have, []string{"fra"}},
		{"nothing of the list", []string{"gru"}, "nrt", have, []string{"nrt"}},
		{"nothing near", nil, "gru", have, nil},
		{"no machines", []string{"nrt"}, "nrt", nil, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			app := balance.App{ID: "web", Regions: tc.regions}
			got := RegionOrder(app, tc.nearest, tc.have)
			if len(got) != len(tc.have) || !cmp.Equal(got[:len(tc.first)], tc.first) && len(tc.first) > 0 {
				t.Errorf("%v, want all of %v and %v first", got, tc.have, tc.first)
			}
		})
	}
	// Nodes with one home share it, however they come by it.
	a := RegionOrder(balance.App{ID: "web"}, "nrt", have)
	b := RegionOrder(balance.App{ID: "web", Regions: []string{"nrt"}}, "syd", []string{"syd", "nrt", "hkg", "fra"})
	if !cmp.Equal(a, b) {
		t.Errorf("orders differ: %v and %v", a, b)
	}
}

// A Boots is a value: what is learned by one of two copies changes nothing in the other, however
// full they are.
func TestACopyOfBootsIsASnapshot(t *testing.T) {
	for _, n := range []int{0, 1, 3, bootsKept - 1, bootsKept, 3 * bootsKept} {
		var b Boots
		for i := range n {
			b.Learn(time.Duration(i+1) * sec)
		}
		before := fmt.Sprint(b.last)
		one, other := b, b
		one.Learn(time.Hour)
		other.Learn(time.Minute)
		if one.last[len(one.last)-1] != time.Hour || other.last[len(other.last)-1] != time.Minute ||
			fmt.Sprint(b.last) != before {
			t.Errorf("after %d boots and one more in each copy: %v, %v, and %v, which was %v", n, one.last,
				other.last, b.last, before)
		}
		if want := min(n+1, bootsKept); len(one.last) != want || cap(one.last) > bootsKept {
			t.Errorf("%d boots of %d are kept, with room for %d", len(one.last), n+1, cap(one.last))
		}
	}
}
