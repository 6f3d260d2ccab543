package boots

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func bootsOf(hint time.Duration, took ...time.Duration) *Boots {
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
		{"nothing is known", bootsOf(0), 180 * sec, 180 * sec, 180 * sec, 195 * sec},
		{"a hint is one boot", bootsOf(8 * sec), 8 * sec, 8 * sec, 16 * sec, 31 * sec},
		{"a hint beside boots", bootsOf(8*sec, 2*sec, 3*sec), 3 * sec, 8 * sec, 16 * sec, 31 * sec},
		{"fast boots", bootsOf(0, 50*time.Millisecond), 50 * time.Millisecond, 50 * time.Millisecond, 2 * sec, 17 * sec},
		{"very slow boots", bootsOf(0, 20*time.Minute), 20 * time.Minute, 20 * time.Minute, 10 * time.Minute, 20*time.Minute + 15*sec},
		{"negative boots teach nothing", bootsOf(0, -sec), 180 * sec, 180 * sec, 180 * sec, 195 * sec},
		{"a huge hint", bootsOf(1 << 62), 1 << 62, 1 << 62, 10 * time.Minute, 24*time.Hour + 15*sec},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := [...]time.Duration{tc.b.Expected(), tc.b.Longest(), tc.b.Suspect(), tc.b.Wait()}
			want := [...]time.Duration{tc.expected, tc.longest, tc.suspect, tc.wait}
			if got != want {
				t.Errorf("expected, longest, suspect, wait: %v, want %v", got, want)
			}
		})
	}
	old := bootsOf(time.Hour, time.Hour)
	for range bootsKept {
		old.Learn(sec)
	}
	if old.Longest() != sec {
		t.Errorf(
			"longest %v after 32 boots of 1s: the hint and what was before are forgotten", old.Longest(),
		)
	}
	b := bootsOf(0, 10*sec, 10*sec, 20*sec)
	for age, want := range map[time.Duration]time.Duration{0: 10 * sec, 4 * sec: 6 * sec, 10 * sec: 10 * sec, 39 * sec: sec, 41 * sec: sec, -sec: 11 * sec} {
		if got := b.Remaining(age); got != want {
			t.Errorf("remaining at %v: %v, want %v", age, got, want)
		}
	}
	for age, want := range map[time.Duration]time.Duration{-sec: sec, 0: sec, 4 * sec: 4 * sec, time.Hour: 30 * sec} {
		if got := bootsOf(0).Remaining(age); got != want {
			t.Errorf("nothing known, remaining at %v: %v, want %v", age, got, want)
		}
	}
}

func TestBootsProperties(t *testing.T) {
	durations := rapid.Int64Range(0, int64(20*time.Minute))
	rapid.Check(t, func(t *rapid.T) {
		b := bootsOf(time.Duration(durations.Draw(t, "hint")))
		for _, d := range rapid.SliceOfN(durations, 0, 50).Draw(t, "boots") {
			b.Learn(time.Duration(d))
		}
		if l := b.Suspect(); l < suspectMin || l > suspectMax && b.Known() {
			t.Fatalf("suspect after %v: want between %v and %v", l, suspectMin, suspectMax)
		}
		if b.Wait() < WaitMin || b.Expected() > b.Longest() ||
			b.Remaining(time.Duration(durations.Draw(t, "age"))) <= 0 {
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
	var k Book
	for i := range 100 {
		k.Learn(Key{Revision: string(rune('a' + i)), Kind: Cold}, time.Duration(i+1)*sec)
		k.Learn(Key{Revision: "steady", Kind: Cold}, sec)
	}
	if len(k.recent) != revisionsKept {
		t.Errorf("%d revisions are kept, want %d", len(k.recent), revisionsKept)
	}
	if got := k.Of(Key{Revision: "steady"}).Longest(); got != sec {
		t.Errorf("longest of the revision in use: %v, want 1s", got)
	}
	if got := k.Of(Key{Revision: "never seen"}); got != &k.All[Cold] {
		t.Error("of a new revision all speak")
	}
}

func TestBackoff(t *testing.T) {
	for n, want := range map[int]time.Duration{-1: sec, 0: sec, 1: sec, 2: 2 * sec, 3: 4 * sec, 6: 32 * sec, 7: 60 * sec, 1 << 30: 60 * sec} {
		low, mid, high := Backoff(n, 0), Backoff(n, 1<<63), Backoff(n, 1<<64-1)
		if low != want*4/5 || mid != want || high <= mid || high > want*6/5 {
			t.Errorf("failure %d: %v %v %v, want %v give or take a fifth", n, low, mid, high, want)
		}
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
