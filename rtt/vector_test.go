package rtt

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func drawVector(t *rapid.T) Vector {
	v := Vector{
		From: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "from"), Region: rapid.StringN(0, 5, 20).Draw(t, "region"),
		Incarnation: rapid.Uint64Range(0, 3).Draw(t, "incarnation"), Version: rapid.Uint64Range(0, 5).Draw(t, "version"),
	}
	id := ""
	for range rapid.IntRange(0, 5).Draw(t, "n") {
		id += rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "id") // each one longer, so ascending
		f := func(name string) Fraction {
			n := rapid.Uint32().Draw(t, name)
			return Fraction{Lost: rapid.Uint32Range(0, n).Draw(t, name), N: n}
		}
		e := Entry{To: id, Region: rapid.StringN(0, 5, 20).Draw(t, "to region"), Loss: f("loss"), LossOut: f("out"), LossIn: f("in")}
		if rapid.Bool().Draw(t, "known") {
			e.Base = time.Duration(rapid.Int64Range(1, int64(maxRTT)).Draw(t, "base"))
			e.P90 = time.Duration(rapid.Int64Range(int64(e.Base), int64(maxRTT)).Draw(t, "p90"))
			e.State = State(rapid.IntRange(int(StateFresh), int(StateLost)).Draw(t, "state"))
			e.Source = Source(rapid.IntRange(1, int(SourceShared)).Draw(t, "source"))
			e.Samples = rapid.IntRange(0, 60).Draw(t, "samples")
			e.Age = time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "age"))
			e.Kernel = rapid.Bool().Draw(t, "kernel")
		}
		v.Entries = append(v.Entries, e)
	}
	return v
}

func TestVectorRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := drawVector(t)
		b, err := v.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		var got, viaJSON Vector
		if err := got.UnmarshalBinary(b); err != nil {
			t.Fatal(err)
		}
		if got.Entries = append([]Entry(nil), got.Entries...); !cmp.Equal(v, got) {
			t.Fatal(cmp.Diff(v, got))
		}
		for i := range b { // every shorter string is refused and changes nothing
			var cut Vector
			if err := cut.UnmarshalBinary(b[:i]); err == nil || !cmp.Equal(cut, Vector{}) {
				t.Fatalf("the first %d of %d bytes were taken: %v", i, len(b), err)
			}
		}
		j, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(j, &viaJSON); err != nil {
			t.Fatal(err)
		}
	})
}

// A vector that claims more entries than its bytes can hold is refused before there is room made
// for them: what comes over the network costs no more memory than it has bytes.
func TestVectorClaimsCostNothing(t *testing.T) {
	claim := func(n uint64, rest int) []byte {
		head, err := (&Vector{From: "a"}).MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		return append(
			binary.AppendUvarint(head[:len(head)-1], n),
			make([]byte, rest)...) // the last byte is the number of entries
	}
	cost := func(b []byte) float64 {
		return testing.AllocsPerRun(100, func() {
			if err := new(Vector).UnmarshalBinary(b); err == nil {
				t.Error("taken")
			}
		})
	}
	cut := claim(0, 0)
	least := cost(cut[:len(cut)-1])
	for _, c := range []struct {
		n    uint64
		rest int
	}{{1, 0}, {100, 99}, {maxEntries, 50}, {maxEntries + 1, maxEntries + 1}, {math.MaxUint64, 9}} {
		if n := cost(claim(c.n, c.rest)); n > least {
			t.Errorf("%d entries in %d bytes: refused after %v allocations, and %v is what the rest costs",
				c.n, c.rest, n, least)
		}
	}
}

func TestVectorValidate(t *testing.T) {
	good := func() Vector {
		return Vector{From: "a", Entries: []Entry{{To: "b", Base: ms, P90: 2 * ms, State: StateFresh, Source: SourceUDP}, {To: "c"}}}
	}
	if v := good(); v.Validate() != nil {
		t.Fatal(v.Validate())
	}
	for _, row := range []struct {
		edit func(v *Vector)
		want string
	}{
		{func(v *Vector) { v.From = "" }, "vector from"},
		{func(v *Vector) { v.From = strings.Repeat("x", 256) }, "an ID has 1 to 255 bytes"},
		{func(v *Vector) { v.Entries[0].To = "" }, "bad name"},
		{func(v *Vector) { v.Entries[0].To = "z" }, "out of order"},
		{func(v *Vector) { v.Entries[1].To = "b" }, "out of order"},
		{func(v *Vector) { v.Entries[0].Base = -1 }, "has base"},
		{func(v *Vector) { v.Entries[0].Base, v.Entries[0].P90 = time.Hour, time.Hour }, "has base"},
		{func(v *Vector) { v.Entries[0].P90 = 0 }, "has base"},
		{func(v *Vector) { v.Entries[0].Age = math.MinInt64 }, "age"},
		{func(v *Vector) { v.Entries[0].State = 9 }, "state 9"},
		{func(v *Vector) { v.Entries[0].Source = 99 }, "source 99"},
		{func(v *Vector) { v.Entries[1].State = StateFresh }, "without a base"},
		{func(v *Vector) { v.Entries[0].Loss = Fraction{2, 1} }, "lost more than"},
		{func(v *Vector) { v.Entries = make([]Entry, maxEntries+1) }, "entries"},
	} {
		v := good()
		row.edit(&v)
		if err := v.Validate(); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%v, want it to say %q", err, row.want)
		}
		if _, err := v.MarshalBinary(); err == nil {
			t.Errorf("an invalid vector was encoded (%s)", row.want)
		}
	}
}

// Taking in is commutative, associative and idempotent: any order, with repeats, ends in the same state.
func TestVectorsMerge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var vs []*Vector
		seen := map[[3]any]*Vector{}
		for range rapid.IntRange(1, 8).Draw(t, "n") {
			v := drawVector(t)
			key := [3]any{v.From, v.Incarnation, v.Version}
			if seen[key] == nil { // one node never says two things in one version
				seen[key] = &v
			}
			vs = append(vs, seen[key])
		}
		var a, b vectors
		for _, v := range vs {
			a.take(epoch, v)
		}
		for _, i := range rapid.Permutation([]int{0, 1, 2, 3, 4, 5, 6, 7}).Draw(t, "order") {
			if i < len(vs) {
				b.take(epoch, vs[i])
				if b.take(epoch, vs[i]) {
					t.Fatal("the same vector was news twice")
				}
			}
		}
		for id := range a.of {
			if a.of[id].Vector != b.of[id].Vector {
				t.Fatalf("%s: %+v and %+v", id, a.of[id].Vector, b.of[id].Vector)
			}
		}
		if len(a.of) != len(b.of) {
			t.Fatalf("%d and %d", len(a.of), len(b.of))
		}
	})
}

func TestVectorsAreBounded(t *testing.T) {
	var s vectors
	name := func(i int) string { return string([]rune{rune('0' + i/100), rune('0' + i%100)}) }
	for i := range maxEntries {
		if !s.take(epoch, &Vector{From: name(i), Version: 1}) {
			t.Fatal(i)
		}
	}
	if s.take(epoch, &Vector{From: "one more"}) {
		t.Error("one more than the limit was taken")
	}
	if !s.take(epoch, &Vector{From: name(7), Version: 2}) {
		t.Error("a known node's news was refused")
	}
	if !s.take(epoch.Add(sharedKept+time.Second), &Vector{From: "one more"}) || len(s.of) != 1 {
		t.Errorf("%d vectors kept after ten minutes of silence, want 1", len(s.of))
	}
}

func TestWorthSending(t *testing.T) {
	old := []Entry{{To: "a", Base: 100 * ms, State: StateFresh}, {To: "b", Base: ms, State: StateFresh}}
	for _, row := range []struct {
		now  []Entry
		want bool
	}{
		{old, false},
		{old[:1], true},
		{[]Entry{{To: "a", Base: 105 * ms, State: StateFresh}, {To: "b", Base: 2 * ms, State: StateFresh, Age: time.Hour}}, false},
		{[]Entry{{To: "a", Base: 106 * ms, State: StateFresh}, old[1]}, true},
		{[]Entry{old[0], {To: "b", Base: 2100 * time.Microsecond, State: StateFresh}}, true},
		{[]Entry{old[0], {To: "b", Base: ms, State: StateLost}}, true},
		{[]Entry{old[0], {To: "c", Base: ms, State: StateFresh}}, true},
	} {
		if got := worthSending(old, row.now); got != row.want {
			t.Errorf("%v: %v, want %v", row.now, got, row.want)
		}
	}
}

// FuzzVector: any bytes are refused or decode to a valid vector that encodes to something that decodes to the same.
func FuzzVector(f *testing.F) {
	for _, v := range []Vector{{From: "a"}, {From: "a", Region: "r", Incarnation: 1 << 63, Version: 7, Entries: []Entry{{To: "b", Base: ms, P90: ms, State: StateFresh}}}} {
		b, _ := v.MarshalBinary()
		f.Add(b)
	}
	f.Add([]byte{1, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		var v, again Vector
		if err := v.UnmarshalBinary(b); err != nil {
			if !cmp.Equal(v, Vector{}) {
				t.Fatalf("refused, but written: %+v", v)
			}
			return
		}
		c, err := v.MarshalBinary()
		if err != nil {
			t.Fatalf("decoded to what cannot be encoded: %v", err)
		}
		if err := again.UnmarshalBinary(c); err != nil || !cmp.Equal(v, again) {
			t.Fatal(err, cmp.Diff(v, again))
		}
	})
}
