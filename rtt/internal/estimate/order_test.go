package estimate

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func cand(name string, rtt time.Duration) Candidate {
	return Candidate{Name: name, RTT: rtt, State: StateFresh, Settled: true}
}

func lost(c Candidate) Candidate { c.State = StateLost; return c }

func names(o *Order) string {
	var b strings.Builder
	for _, p := range o.Places() {
		b.WriteString(p.Name)
	}
	return b.String()
}

func TestOrderTimelines(t *testing.T) {
	type step struct {
		at   int // seconds
		in   []Candidate
		want string
	}
	two := func(a, b time.Duration) []Candidate { return []Candidate{cand("a", a), cand("b", b)} }
	for _, row := range []struct {
		name  string
		steps []step
	}{
		{"first measurements are sorted at once", []step{{0, two(20*ms, 10*ms), "ba"}}},
		{"less than 2ms never changes it", []step{{0, two(5*ms, 6*ms), "ab"}, {1, two(6*ms, 4100*time.Microsecond), "ab"}, {600, two(6*ms, 4100*time.Microsecond), "ab"}}},
		{"less than a tenth never changes it", []step{{0, two(50*ms, 60*ms), "ab"}, {1, two(60*ms, 54500*time.Microsecond), "ab"}, {600, two(60*ms, 54500*time.Microsecond), "ab"}}},
		{"more has to hold for five seconds", []step{{0, two(50*ms, 60*ms), "ab"}, {1, two(60*ms, 50*ms), "ab"}, {5, two(60*ms, 50*ms), "ab"}, {6, two(60*ms, 50*ms), "ba"}}},
		{"half as far again for three", []step{{0, two(50*ms, 60*ms), "ab"}, {1, two(90*ms, 60*ms), "ab"}, {3, two(90*ms, 60*ms), "ab"}, {4, two(90*ms, 60*ms), "ba"}}},
		{"a break starts the hold anew", []step{{0, two(50*ms, 60*ms), "ab"}, {1, two(60*ms, 50*ms), "ab"}, {4, two(50*ms, 50*ms), "ab"}, {5, two(60*ms, 50*ms), "ab"}, {9, two(60*ms, 50*ms), "ab"}, {10, two(60*ms, 50*ms), "ba"}}},
		{"time that goes back starts it anew", []step{{10, two(50*ms, 60*ms), "ab"}, {11, two(60*ms, 50*ms), "ab"}, {1, two(60*ms, 50*ms), "ab"}, {5, two(60*ms, 50*ms), "ab"}, {6, two(60*ms, 50*ms), "ba"}}},
		{"a lost incumbent goes at once", []step{{0, two(10*ms, 60*ms), "ab"}, {0, []Candidate{lost(cand("a", 10*ms)), cand("b", 60*ms)}, "ba"}}},
		{"and earns its place when it is back", []step{
			{0, two(10*ms, 60*ms), "ab"}, {1, []Candidate{lost(cand("a", 10*ms)), cand("b", 60*ms)}, "ba"},
			{2, two(10*ms, 60*ms), "ba"}, {4, two(10*ms, 60*ms), "ba"}, {5, two(10*ms, 60*ms), "ab"},
		}},
		{"unknown is not near, and nearer than lost", []step{{0, []Candidate{{Name: "u"}, lost(cand("l", ms)), cand("k", 300*ms)}, "kul"}}},
		{"a base of zero is unknown", []step{{0, []Candidate{cand("z", 0), cand("k", 300*ms)}, "kz"}}},
		{"stale ones keep their place", []step{{0, two(10*ms, 60*ms), "ab"}, {9, []Candidate{{Name: "a", RTT: 10 * ms, State: StateStale}, cand("b", 60*ms)}, "ab"}}},
		{"the unsettled move freely", []step{
			{0, []Candidate{{Name: "a", RTT: 900 * ms, State: StateFresh}, cand("b", 60*ms)}, "ba"},
			{0, []Candidate{{Name: "a", RTT: 10 * ms, State: StateFresh}, cand("b", 60*ms)}, "ab"},
		}},
		{"but settled once is settled", []step{{0, two(10*ms, 60*ms), "ab"}, {1, []Candidate{{Name: "a", RTT: 900 * ms, State: StateFresh}, cand("b", 60*ms)}, "ab"}}},
		{"one that left is forgotten", []step{{0, two(10*ms, 60*ms), "ab"}, {1, []Candidate{cand("b", 60*ms)}, "b"}, {2, two(100*ms, 60*ms), "ba"}}},
		{"passes all it beats, not only the next", []step{
			{0, []Candidate{cand("a", 50*ms), cand("b", 51*ms), cand("c", 60*ms)}, "abc"},
			{1, []Candidate{cand("a", 50*ms), cand("b", 47*ms), cand("c", 44*ms)}, "abc"}, // c beats a, not b
			{6, []Candidate{cand("a", 50*ms), cand("b", 47*ms), cand("c", 44*ms)}, "cab"},
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			var o Order
			for i, s := range row.steps {
				o.Update(epoch.Add(time.Duration(s.at)*time.Second), s.in)
				if got := names(&o); got != s.want {
					t.Fatalf("step %d: %s, want %s", i, got, s.want)
				}
			}
		})
	}
}

func TestOrderGroups(t *testing.T) {
	var o Order
	groups := func() (s string) {
		for _, p := range o.Places() {
			s += fmt.Sprint(p.Group)
		}
		return s
	}
	at := func(i int, rtts ...time.Duration) string {
		var cs []Candidate
		for k, d := range rtts {
			cs = append(cs, cand(string(rune('a'+k)), d))
		}
		o.Update(epoch.Add(time.Duration(i)*time.Second), cs)
		return groups()
	}
	if got := at(0, 10*ms, 11*ms, 12*ms, 13*ms, 100*ms, 109*ms, 200*ms); got != "0001223" {
		t.Errorf("groups %s, want 0001223", got)
	}
	if got := at(1, 10*ms, 11*ms, 12900*time.Microsecond, 13*ms, 100*ms, 109*ms, 200*ms); got != "0001223" {
		t.Errorf("a little beyond the margin it left its group: %s", got)
	}
	if got := at(2, 10*ms, 11*ms, 13100*time.Microsecond, 14*ms, 100*ms, 109*ms, 200*ms); got != "0011223" {
		t.Errorf("far beyond the margin: %s, want 0011223", got)
	}
}

// What holds after every update, whatever came before.
func TestOrderProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var o Order
		now := epoch
		n := rapid.IntRange(1, 8).Draw(t, "n")
		base := make([]time.Duration, n)
		for i := range base {
			base[i] = time.Duration(rapid.IntRange(0, 200).Draw(t, "base")) * ms
		}
		beating := map[string]time.Time{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 2000).Draw(t, "dt")) * ms)
			if rapid.Bool().Draw(t, "move") {
				base[rapid.IntRange(0, n-1).Draw(t, "who")] = time.Duration(rapid.IntRange(0, 200).Draw(t, "to")) * ms
			}
			var cs []Candidate
			for i := range base {
				cs = append(cs, Candidate{
					Name: string(rune('a' + i)), RTT: base[i], Settled: rapid.Bool().Draw(t, "settled"),
					State: rapid.SampledFrom([]State{StateFresh, StateFresh, StateFresh, StateStale, StateLost, StateUnknown}).Draw(t, "state"),
				})
			}
			before := names(&o)
			changed := o.Update(now, cs)
			ps := o.Places()

			// It is a permutation, and Update reports when it changed.
			var got []string
			for _, p := range ps {
				got = append(got, p.Name)
			}
			slices.Sort(got)
			if len(got) != n || len(slices.Compact(got)) != n {
				t.Fatalf("%v is no permutation of %d", got, n)
			}
			if changed != (before != names(&o)) {
				t.Fatalf("changed is %v from %s to %s", changed, before, names(&o))
			}
			// RTT strictly rises over the known, which come first, and is never below the measured one;
			// groups rise.
			byName := func(name string) Candidate { return cs[name[0]-'a'] }
			for i, p := range ps {
				c := byName(p.Name)
				if p.Known != (classOf(c) == alive) || p.Known && p.RTT < c.RTT {
					t.Fatalf("%+v for %+v", p, c)
				}
				if i == 0 {
					continue
				}
				q := ps[i-1]
				if p.Known && (!q.Known || p.RTT <= q.RTT || p.Group < q.Group || p.Group > q.Group+1) {
					t.Fatalf("%+v after %+v", p, q)
				}
				if classOf(c) < classOf(byName(q.Name)) {
					t.Fatalf("%v outranked by %v", c, byName(q.Name))
				}
			}
			// Nothing is held behind one it beats by the margin for longer than the hold.
			for i, p := range ps {
				c := byName(p.Name)
				beats := false
				for _, q := range ps[:i] {
					d := byName(q.Name)
					beats = beats || p.Known && c.RTT < d.RTT-margin(d.RTT)
				}
				if !beats {
					delete(beating, p.Name)
				} else if since, ok := beating[p.Name]; !ok {
					beating[p.Name] = now
				} else if now.Sub(since) > hold {
					t.Fatalf("%s has beaten one above it for %v", p.Name, now.Sub(since))
				}
			}
			// Equal input, no time: nothing changes, but for what still moves freely.
			free := slices.ContainsFunc(o.items, func(it item) bool { return it.class == alive && !it.Settled })
			if !free && o.Update(now, cs) {
				t.Fatal("the same input changed the order")
			}
		}
	})
}

func BenchmarkOrderUpdate(b *testing.B) {
	for _, n := range []int{40, 500} {
		b.Run(fmt.Sprintf("regions=%d", n), func(b *testing.B) {
			var o Order
			cs := make([]Candidate, n)
			for i := range cs {
				cs[i] = cand(fmt.Sprint("region-", i), time.Duration(i*37%n+1)*ms)
			}
			now := epoch
			b.ReportAllocs()
			for b.Loop() {
				now = now.Add(time.Second)
				o.Update(now, cs)
			}
		})
	}
}
