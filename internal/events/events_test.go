package events

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func at(d time.Duration) time.Time { return epoch.Add(d) }

// brief writes events as "seq time kind machine reason".
func brief(es []Event) []string {
	var lines []string
	for _, e := range es {
		lines = append(
			lines,
			strings.TrimSpace(
				fmt.Sprintf("%d %v %s %s %s", e.Seq, e.Time.Sub(epoch), e.Kind, e.Machine, e.Reason),
			),
		)
	}
	return lines
}

func ExampleRing() {
	r := NewRing(100)
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r.Add(
		now,
		Event{
			Kind: Start, App: "web", Machine: "hkg-1", Node: "edge",
			Reason: "demand 23, ready 1x20, starting 0",
		},
	)
	for range 13 {
		r.Add(now, Event{Kind: Bounce, App: "web", Machine: "nrt-1", Node: "worker", Reason: "full"})
	}
	r.Tick(now.Add(time.Second))
	for _, e := range r.Since(0, 100, nil) {
		fmt.Println(e.Seq, e.Time.Format(time.TimeOnly), e.Kind, e.Machine, e.Reason)
	}
	// Output:
	// 1 03:04:05 start hkg-1 demand 23, ready 1x20, starting 0
	// 2 03:04:05 bounce nrt-1 full
	// 3 03:04:06 bounce nrt-1 12 bounces: full
}

func TestRing(t *testing.T) {
	const ms, sec = time.Millisecond, time.Second
	type add struct {
		at              time.Duration
		kind            Kind
		machine, reason string
	}
	for _, row := range []struct {
		name string
		adds []add
		tick time.Duration
		want []string
	}{
		{"decisions are never summed",
			[]add{{0, Start, "m", "a"}, {0, Start, "m", "a"}}, 0,
			[]string{"1 0s start m a", "2 0s start m a"}},
		{"the first of a flood is there at once",
			[]add{{0, Park, "", "nothing runs"}}, 0,
			[]string{"1 0s park  nothing runs"}},
		{"a single one stays single",
			[]add{{0, Park, "", "nothing runs"}}, 10 * sec,
			[]string{"1 0s park  nothing runs"}},
		{"two are two",
			[]add{{0, Bounce, "m", "full"}, {10 * ms, Bounce, "m", "full"}}, sec,
			[]string{"1 0s bounce m full", "2 1s bounce m full"}},
		{"a flood is one event a second",
			[]add{{0, Retry, "m", "x"}, {1 * ms, Retry, "m", "x"}, {2 * ms, Retry, "m", "x"}, {1100 * ms, Retry, "m", "x"}, {1200 * ms, Retry, "m", "x"}}, 5 * sec,
			[]string{"1 0s retry m x", "2 1s retry m 2 retries: x", "3 2s retry m 2 retries: x"}},
		{"after a second without, the next is there at once again",
			[]add{{0, Bounce, "m", "full"}, {1 * ms, Bounce, "m", "full"}, {2500 * ms, Bounce, "m", "full"}}, 0,
			[]string{"1 0s bounce m full", "2 1s bounce m full", "3 2.5s bounce m full"}},
		{"other machines and kinds apart",
			[]add{{0, Bounce, "m", "full"}, {0, Bounce, "n", "full"}, {0, Retry, "m", "full"}}, 0,
			[]string{"1 0s bounce m full", "2 0s bounce n full", "3 0s retry m full"}},
		{"several reasons, the frequent first",
			[]add{{0, Bounce, "m", "full"}, {0, Bounce, "m", "closing"}, {0, Bounce, "m", "full"}, {0, Bounce, "m", "full"}}, sec,
			[]string{"1 0s bounce m full", "2 1s bounce m 3 bounces: full (2), closing (1)"}},
		{"not more than three reasons",
			[]add{{0, Park, "", "a"}, {0, Park, "", "b"}, {0, Park, "", "c"}, {0, Park, "", "d"}, {0, Park, "", "e"}, {0, Park, "", "f"}, {0, Park, "", "b"}}, sec,
			[]string{"1 0s park  a", "2 1s park  6 parks: b (2), c (1), d (1), other (2)"}},
		{"a sum that is due comes before what is added later",
			[]add{{0, Bounce, "m", "full"}, {1 * ms, Bounce, "m", "full"}, {3 * sec, Stop, "m", "idle"}}, 0,
			[]string{"1 0s bounce m full", "2 1s bounce m full", "3 3s stop m idle"}},
		{"time that goes back loses nothing",
			[]add{{5 * sec, Bounce, "m", "full"}, {0, Bounce, "m", "full"}, {0, Stop, "m", "idle"}}, 6 * sec,
			[]string{"1 5s bounce m full", "2 0s stop m idle", "3 6s bounce m full"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := NewRing(0)
			for _, a := range row.adds {
				r.Add(at(a.at), Event{Kind: a.kind, Machine: a.machine, Reason: a.reason})
			}
			if row.tick > 0 {
				// As often as a timer that follows Wake would call it.
				for wake, ok := r.Wake(); ok && !wake.After(at(row.tick)); wake, ok = r.Wake() {
					r.Tick(wake)
				}
			}
			if d := cmp.Diff(row.want, brief(r.Since(0, 100, nil))); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestRingTakesCounts(t *testing.T) {
	r := NewRing(0)
	r.Add(epoch, Event{Kind: Bounce, Reason: "full", Count: 3})
	r.Add(epoch, Event{Kind: Bounce, Reason: "full", Count: 4, Time: at(time.Hour)})
	r.Tick(at(time.Second))
	want := []string{"1 0s bounce  3 bounces: full", "2 1s bounce  4 bounces: full"}
	if d := cmp.Diff(want, brief(r.Since(0, 100, nil))); d != "" {
		t.Error(d)
	}
	r.Tick(at(3 * time.Second))
	if _, ok := r.Wake(); ok || len(r.sums) > 0 {
		t.Errorf("%d sums stay after a quiet second", len(r.sums))
	}
}

func TestRingSince(t *testing.T) {
	r := NewRing(5)
	if got := r.Since(7, 10, nil); len(got) != 0 {
		t.Errorf("an empty ring has %v", got)
	}
	for range 12 {
		r.Add(epoch, Event{Kind: Start})
	}
	for _, row := range []struct {
		seq       uint64
		limit     int
		from, end uint64
	}{
		{0, 10, 8, 12}, // what is kept
		{0, 2, 8, 9},
		{7, 10, 8, 12},
		{8, 10, 9, 12},
		{3, 1, 8, 8}, // skipped forward
		{11, 10, 12, 12},
		{13, 10, 8, 12}, // from an earlier process
	} {
		got := r.Since(row.seq, row.limit, nil)
		if len(got) != int(row.end-row.from+1) || got[0].Seq != row.from ||
			got[len(got)-1].Seq != row.end {
			t.Errorf("Since(%d, %d) = %v, want %d to %d", row.seq, row.limit, brief(got), row.from, row.end)
		}
	}
	if got := r.Since(12, 10, nil); len(got) != 0 {
		t.Errorf("after the newest comes %v", brief(got))
	}
}

// Whatever is added, in whatever order: numbers have no gaps, nothing is counted twice or lost, and
// a key makes at most one event a second, besides the first.
func TestRingCounts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := NewRing(1 << 20)
		now := epoch
		added := map[string]int{}
		kinds := []Kind{Bounce, Retry, Park, Start}
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 700).Draw(t, "ms")) * time.Millisecond)
			e := Event{
				Kind:    rapid.SampledFrom(kinds).Draw(t, "kind"),
				Machine: rapid.SampledFrom([]string{"m", "n"}).Draw(t, "machine"),
			}
			r.Add(now, e)
			added[string(e.Kind)+e.Machine]++
		}
		for wake, ok := r.Wake(); ok; wake, ok = r.Wake() {
			r.Tick(wake)
		}
		got := map[string]int{}
		var times = map[string][]time.Time{}
		for i, e := range r.Since(0, 1<<20, nil) {
			if e.Seq != uint64(i+1) {
				t.Fatalf("event %d has number %d", i, e.Seq)
			}
			key := string(e.Kind) + e.Machine
			got[key] += max(1, e.Count)
			if e.Kind == Start {
				continue
			}
			times[key] = append(times[key], e.Time)
			if k := len(times[key]); k > 2 && e.Time.Sub(times[key][k-3]) < SumFor {
				t.Fatalf("%s: three events within a second", key)
			}
		}
		if d := cmp.Diff(added, got); d != "" {
			t.Fatal(d)
		}
	})
}
