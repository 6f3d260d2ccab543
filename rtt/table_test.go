package rtt

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ebbkit/ebb/rtt/internal/estimate"
	"github.com/ebbkit/ebb/rtt/internal/probe"
)

func fresh(d time.Duration) estimate.Stat {
	return estimate.Stat{
		Base: d, P90: d, Samples: 10, State: estimate.StateFresh, Source: estimate.SourceUDP,
	}
}

func in(state State, s estimate.Stat) estimate.Stat { s.State = estimate.State(state); return s }

func rowOf(id, region string, s estimate.Stat) probe.Row {
	return probe.Row{
		Node: &probe.Node{ID: id, Region: region}, Stat: s, Lost: s.State == estimate.StateLost,
	}
}

func build(r *probe.Ranking, now time.Time, rows ...probe.Row) *Table {
	slices.SortFunc(rows, func(a, b probe.Row) int { return strings.Compare(a.Node.ID, b.Node.ID) })
	regions, _ := r.Update(now, rows)
	return newTable(r.Own, rows, regions)
}

func TestTableRTT(t *testing.T) {
	for _, row := range []struct {
		name   string
		rows   []probe.Row
		want   time.Duration
		wantOK bool
	}{
		{"no peer there", nil, 0, false},
		{"never measured", []probe.Row{rowOf("a", "r", estimate.Stat{})}, 0, false},
		{"the nearest fresh node counts", []probe.Row{rowOf("a", "r", fresh(30*ms)), rowOf("b", "r", fresh(20*ms)), rowOf("c", "r", fresh(25*ms))}, 20 * ms, true},
		{"a stale one does not beat a fresh one", []probe.Row{rowOf("a", "r", fresh(30*ms)), rowOf("b", "r", in(StateStale, fresh(20*ms)))}, 30 * ms, true},
		{"stale is better than nothing", []probe.Row{rowOf("b", "r", in(StateStale, fresh(20*ms)))}, 20 * ms, true},
		{"a lost one does not count", []probe.Row{rowOf("a", "r", fresh(30*ms)), rowOf("b", "r", in(StateLost, fresh(20*ms)))}, 30 * ms, true},
		{"all lost", []probe.Row{rowOf("b", "r", in(StateLost, fresh(20*ms)))}, 0, false},
		{"lost and never measured", []probe.Row{rowOf("a", "r", estimate.Stat{}), rowOf("b", "r", in(StateLost, fresh(20*ms)))}, 0, false},
	} {
		tab := build(&probe.Ranking{Own: "home"}, epoch, row.rows...)
		if d, ok := tab.RTT("r"); d != row.want || ok != row.wantOK {
			t.Errorf("%s: %v, %v; want %v, %v", row.name, d, ok, row.want, row.wantOK)
		}
		if d, ok := tab.RTT("home"); d != 0 || !ok {
			t.Errorf("%s: the own region is %v, %v", row.name, d, ok)
		}
	}
}

func TestTableOwnRegionIsKnownAlone(t *testing.T) {
	tab := build(&probe.Ranking{Own: "home"}, epoch, rowOf("x", "home", in(StateLost, fresh(ms))))
	if d, ok := tab.RTT("home"); d != 0 || !ok {
		t.Errorf("with its only neighbour lost the own region is %v, %v", d, ok)
	}
	if len(tab.Regions()) != 0 {
		t.Errorf("regions %v", tab.Regions())
	}
}

// Sorting regions by the RTT that the table returns gives the order, including hysteresis.
func TestTableRTTAgreesWithOrder(t *testing.T) {
	b := &probe.Ranking{Own: "home"}
	build(b, epoch, rowOf("a", "ra", fresh(20*ms)), rowOf("b", "rb", fresh(21*ms)))
	tab := build(
		b, epoch.Add(time.Hour), rowOf("a", "ra", fresh(21*ms)), rowOf("b", "rb", fresh(20*ms)),
	)
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
	b := &probe.Ranking{}
	gone := func(id string) probe.Row { return rowOf(id, "r"+id, in(StateLost, fresh(20*ms))) }
	if _, ok := build(b, epoch, gone("a"), gone("b"), gone("c")).RTT("ra"); !ok {
		t.Error("all three lost: the fault is here, but their distances were dropped")
	}
	if _, ok := build(b, epoch, gone("a"), gone("b")).RTT("ra"); ok {
		t.Error("two of two lost is no mass")
	}
	if _, ok := build(b, epoch, gone("a"), gone("b"), rowOf("c", "rc", fresh(ms))).RTT("ra"); ok {
		t.Error("one answers, so the others are lost")
	}
}

func bigTable(regions, nodes int) *Table {
	var rows []probe.Row
	for i := range nodes {
		rows = append(
			rows,
			rowOf(
				fmt.Sprintf("node-%03d", i), fmt.Sprintf("region-%02d", i%regions),
				fresh(time.Duration(i*37%nodes+1)*ms),
			),
		)
	}
	return build(&probe.Ranking{Own: "home"}, epoch, rows...)
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
			bd := &probe.Ranking{Own: "home"}
			now := epoch
			b.ReportAllocs()
			for b.Loop() {
				now = now.Add(time.Second)
				build(bd, now, slices.Clone(tab.rows)...)
			}
		})
	}
}
