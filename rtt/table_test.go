package rtt

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func fresh(d time.Duration) Stat {
	return Stat{Base: d, P90: d, Samples: 10, State: StateFresh, Source: SourceUDP}
}

func in(state State, s Stat) Stat { s.State = state; return s }

func rowOf(id, region string, s Stat) row {
	return row{&Node{ID: id, Region: region}, s, s.State == StateLost}
}

func build(b *builder, now time.Time, vs []*Vector, rows ...row) *Table {
	shared := map[string]gathered{}
	for _, v := range vs {
		shared[v.From] = gathered{v, now}
	}
	slices.SortFunc(rows, func(a, b row) int { return strings.Compare(a.node.ID, b.node.ID) })
	return b.build(now, rows, shared)
}

func TestTableRTT(t *testing.T) {
	for _, row := range []struct {
		name   string
		rows   []row
		want   time.Duration
		wantOK bool
	}{
		{"no peer there", nil, 0, false},
		{"never measured", []row{rowOf("a", "r", Stat{})}, 0, false},
		{"the nearest fresh node counts", []row{rowOf("a", "r", fresh(30*ms)), rowOf("b", "r", fresh(20*ms)), rowOf("c", "r", fresh(25*ms))}, 20 * ms, true},
		{"a stale one does not beat a fresh one", []row{rowOf("a", "r", fresh(30*ms)), rowOf("b", "r", in(StateStale, fresh(20*ms)))}, 30 * ms, true},
		{"stale is better than nothing", []row{rowOf("b", "r", in(StateStale, fresh(20*ms)))}, 20 * ms, true},
		{"a lost one does not count", []row{rowOf("a", "r", fresh(30*ms)), rowOf("b", "r", in(StateLost, fresh(20*ms)))}, 30 * ms, true},
		{"all lost", []row{rowOf("b", "r", in(StateLost, fresh(20*ms)))}, 0, false},
		{"lost and never measured", []row{rowOf("a", "r", Stat{}), rowOf("b", "r", in(StateLost, fresh(20*ms)))}, 0, false},
	} {
		tab := build(&builder{self: Node{ID: "me", Region: "home"}}, epoch, nil, row.rows...)
		if d, ok := tab.RTT("r"); d != row.want || ok != row.wantOK {
			t.Errorf("%s: %v, %v; want %v, %v", row.name, d, ok, row.want, row.wantOK)
		}
		if d, ok := tab.RTT("home"); d != 0 || !ok {
			t.Errorf("%s: the own region is %v, %v", row.name, d, ok)
		}
	}
}

func TestTableOwnRegionIsKnownAlone(t *testing.T) {
	tab := build(&builder{self: Node{ID: "me", Region: "home"}}, epoch, nil, rowOf("x", "home", in(StateLost, fresh(ms))))
	if d, ok := tab.RTT("home"); d != 0 || !ok {
		t.Errorf("with its only neighbour lost the own region is %v, %v", d, ok)
	}
	if len(tab.Regions()) != 0 || len(tab.Nodes()) != 1 {
		t.Errorf("regions %v, nodes %v", tab.Regions(), tab.Nodes())
	}
}

// Sorting regions by what RTT answers gives the order, hysteresis and all.
func TestTableRTTAgreesWithOrder(t *testing.T) {
	b := &builder{self: Node{ID: "me", Region: "home"}}
	build(b, epoch, nil, rowOf("a", "ra", fresh(20*ms)), rowOf("b", "rb", fresh(21*ms)))
	tab := build(b, epoch.Add(time.Hour), nil, rowOf("a", "ra", fresh(21*ms)), rowOf("b", "rb", fresh(20*ms)))
	a, _ := tab.RTT("ra")
	c, _ := tab.RTT("rb")
	if a >= c || tab.Regions()[0].Name != "ra" || tab.Regions()[1].Base != 20*ms {
		t.Errorf("ra %v, rb %v, %+v", a, c, tab.Regions())
	}
	if g := tab.Regions(); g[0].Group != g[1].Group {
		t.Errorf("near-equals are not one group: %+v", g)
	}
}

func TestTableMassSilence(t *testing.T) {
	b := &builder{self: Node{ID: "me"}}
	gone := func(id string) row { return rowOf(id, "r"+id, in(StateLost, fresh(20*ms))) }
	if _, ok := build(b, epoch, nil, gone("a"), gone("b"), gone("c")).RTT("ra"); !ok {
		t.Error("all three lost: the fault is here, but their distances were dropped")
	}
	if _, ok := build(b, epoch, nil, gone("a"), gone("b")).RTT("ra"); ok {
		t.Error("two of two lost is no mass")
	}
	if _, ok := build(b, epoch, nil, gone("a"), gone("b"), rowOf("c", "rc", fresh(ms))).RTT("ra"); ok {
		t.Error("one answers, so the others are lost")
	}
}

func TestTableDisagreements(t *testing.T) {
	b := &builder{self: Node{ID: "me"}}
	sees := func(id string, d time.Duration) *Vector {
		return &Vector{From: id, Region: "r" + id, Entries: []Entry{{To: "me", Base: d, P90: d, State: StateFresh, Source: SourceUDP}}}
	}
	trusting := fresh(20 * ms)
	trusting.residence = 15 * ms // the base rests on the peer's word
	for i := range 62 {
		now := epoch.Add(time.Duration(i) * time.Second)
		tab := build(b, now, []*Vector{sees("a", 45*ms), sees("b", 45*ms), sees("c", 25*ms)},
			rowOf("a", "ra", trusting), rowOf("b", "rb", fresh(20*ms)), rowOf("c", "rc", trusting))
		if i < 60 && len(tab.Disagreements()) > 0 {
			t.Fatalf("after %d s: %v", i, tab.Disagreements())
		}
		if i < 61 {
			continue
		}
		ds := tab.Disagreements()
		if len(ds) != 2 || ds[0] != (Disagreement{"me", "a", 20 * ms, 45 * ms, epoch}) || ds[1].B != "b" {
			t.Errorf("%+v", ds)
		}
		if r, _ := tab.Region("ra"); r.Base != 45*ms {
			t.Errorf("a claims to have held packets for 15ms and measures 45ms itself, but counts as %v", r.Base)
		}
		if r, _ := tab.Region("rb"); r.Base != 20*ms {
			t.Errorf("b claims nothing, so what was measured here counts, not %v", r.Base)
		}
	}
	tab := build(b, epoch.Add(63*time.Second), []*Vector{sees("a", 21*ms)}, rowOf("a", "ra", trusting))
	if len(tab.Disagreements()) > 0 {
		t.Errorf("they agree again: %v", tab.Disagreements())
	}
	if len(b.agree.since) > 0 {
		t.Errorf("nodes that left are remembered: %v", b.agree.since)
	}
}

func TestTableOff(t *testing.T) {
	b := &builder{self: Node{ID: "me"}}
	ids := []string{"a", "b", "c", "sick"}
	var vs []*Vector
	for _, from := range ids {
		v := &Vector{From: from, Region: "r"}
		for _, to := range append([]string{"me"}, ids...) {
			d := 20 * ms
			if from == "sick" {
				d = 60 * ms
			}
			if to != from {
				v.Entries = append(v.Entries, Entry{To: to, Base: d, P90: d, State: StateFresh, Source: SourceUDP})
			}
		}
		slices.SortFunc(v.Entries, func(x, y Entry) int { return strings.Compare(x.To, y.To) })
		vs = append(vs, v)
	}
	var tab *Table
	for i := range 5 { // one view is checked per table
		tab = build(b, epoch.Add(time.Duration(i)*time.Second), vs,
			rowOf("a", "r", fresh(20*ms)), rowOf("b", "r", fresh(20*ms)), rowOf("c", "r", fresh(20*ms)), rowOf("sick", "r", fresh(20*ms)))
	}
	if got := tab.Off(); !slices.Equal(got, []string{"sick"}) {
		t.Errorf("off: %v, want the sick one only", got)
	}
	tab = build(b, epoch, vs[:3], rowOf("a", "r", fresh(20*ms)))
	if got := tab.Off(); len(got) != 0 {
		t.Errorf("its vector is gone, but it is still off: %v", got)
	}
}

func TestTableBetween(t *testing.T) {
	tab := build(&builder{self: Node{ID: "me", Region: "home"}}, epoch, []*Vector{{From: "a", Region: "ra"}}, rowOf("a", "ra", fresh(20*ms)))
	for _, row := range []struct {
		from, to string
		want     time.Duration
		ok       bool
	}{{"me", "a", 20 * ms, true}, {"me", "me", 0, true}, {"a", "a", 0, true}, {"a", "me", 0, false}, {"x", "a", 0, false}, {"me", "x", 0, false}} {
		if s, ok := tab.Between(row.from, row.to); s.Base != row.want || ok != row.ok {
			t.Errorf("%s to %s: %v, %v", row.from, row.to, s.Base, ok)
		}
	}
	if _, ok := tab.BetweenRegions("ra", "home"); ok {
		t.Error("ra to home is known though nobody measured it")
	}
}

func TestNearOnes(t *testing.T) {
	var rows []row
	for i := range 100 { // 10 regions of 10, nearest first
		rows = append(rows, rowOf(fmt.Sprintf("n%02d", i), fmt.Sprint("r", i/10), fresh(time.Duration(i+1)*10*ms)))
	}
	tab := build(&builder{self: Node{ID: "me"}}, epoch, nil, rows...)
	near := nearOnes(tab, 32)
	if len(near) != 32+6 || !near["n00"] || !near["n31"] || near["n32"] || !near["n40"] || !near["n90"] {
		t.Errorf("%d near ones: %v", len(near), near)
	}
}

func bigTable(regions, nodes int) *Table {
	var rows []row
	for i := range nodes {
		rows = append(rows, rowOf(fmt.Sprintf("node-%03d", i), fmt.Sprintf("region-%02d", i%regions), fresh(time.Duration(i*37%nodes+1)*ms)))
	}
	return build(&builder{self: Node{ID: "me", Region: "home"}}, epoch, nil, rows...)
}

func TestTableReadsAllocateNothing(t *testing.T) {
	tab := bigTable(40, 500)
	if n := testing.AllocsPerRun(5000, func() {
		tab.RTT("region-07")
		tab.RTT("home")
		tab.RTT("nowhere")
		tab.To("node-123")
		_ = tab.Regions()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkOrder reads: the whole order of 40 regions, and the distance of one.
func BenchmarkOrder(b *testing.B) {
	m := &Mesh{}
	m.table.Store(bigTable(40, 500))
	b.Run("regions=40", func(b *testing.B) {
		b.ReportAllocs()
		n := 0
		for b.Loop() {
			n += len(m.Table().Regions())
		}
	})
	b.Run("regions=40/read=rtt", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m.RTT("region-07")
		}
	})
	b.Run("regions=40/read=rtt/parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				m.RTT("region-07")
			}
		})
	})
}

func BenchmarkBuild(b *testing.B) {
	for _, n := range []int{40, 500} {
		b.Run(fmt.Sprintf("peers=%d", n), func(b *testing.B) {
			tab := bigTable(40, n)
			bd := &builder{self: tab.self}
			now := epoch
			b.ReportAllocs()
			for b.Loop() {
				now = now.Add(time.Second)
				bd.build(now, slices.Clone(tab.rows), nil)
			}
		})
	}
}
