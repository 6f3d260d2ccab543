package exchange

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/exchange/internal/wire"
)

// recorder is an engine that keeps what is published and carries nothing.
type recorder struct {
	*Conn
	sent []Message
}

func (r *recorder) Publish(s Subject, payload []byte) error {
	r.sent = append(r.sent, Message{s, payload})
	return nil
}

// worker returns a node with that many running machines, and its engine. It has sent its rows.
func worker(b testing.TB, id string, machines int) (*Link, *recorder, []*balance.Gate) {
	f, err := balance.NewFleet(balance.FleetConfig{Node: balance.NodeID(id), Region: "nrt"})
	if err != nil {
		b.Fatal(err)
	}
	x := &recorder{Conn: NewMemory(MemoryConfig{}).Connect(balance.NodeID(id))}
	l, err := New(f, x, Config{Worker: true, Hop: "10.0.0.1:9000", Probe: "10.0.0.1:9001"})
	if err != nil {
		b.Fatal(err)
	}
	var gates []*balance.Gate
	for i := range machines {
		g, err := f.Host(balance.Machine{ID: balance.MachineID(fmt.Sprintf("%s-%04d", id, i)), App: balance.AppID(fmt.Sprintf("app-%d", i%50)), Region: "nrt", Addr: "10.0.0.1:8080", Limits: balance.Limits{Soft: 20, Hard: 25}})
		if err != nil {
			b.Fatal(err)
		}
		token, _ := g.Start(0)
		g.Ready(token)
		gates = append(gates, g)
	}
	w := f.Watch()
	l.out.rows(w.Take())
	w.Close()
	return l, x, gates
}

// BenchmarkBeat measures a node's own messages, in bytes, when the loads of all of its machines
// change at each interval.
func BenchmarkBeat(b *testing.B) {
	for _, machines := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("machines=%d", machines), func(b *testing.B) {
			l, x, gates := worker(b, "w1", machines)
			bytes, n, now := 0, 0, time.Now()
			b.ReportAllocs()
			for b.Loop() {
				for _, g := range gates {
					g.Enter(0, 1, 0)
				}
				x.sent = x.sent[:0]
				l.out.beat(now)
				for _, m := range x.sent {
					bytes += len(m.Payload)
				}
				for _, g := range gates {
					g.Leave()
				}
				n++
				l.out.whole = time.Time{} // send all of them each time
			}
			b.ReportMetric(float64(bytes)/float64(n), "B/beat")
		})
	}
}

// BenchmarkHear measures what it costs to receive a heartbeat of a node with 100 machines, all of
// whose loads have changed, and how much memory it takes to follow that node's rows. A node that
// follows 100 of them receives at most 500 such messages a second, and 100 when nothing changes.
func BenchmarkHear(b *testing.B) {
	const machines = 100
	_, x, _ := worker(b, "w1", machines)
	rows := x.sent[0].Payload
	decoded, err := wire.DecodeRows(rows)
	if err != nil || len(x.sent) != 1 {
		b.Fatal(err, len(x.sent))
	}
	for _, nodes := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("nodes=%d/machines=%d", nodes, machines), func(b *testing.B) {
			f, err := balance.NewFleet(balance.FleetConfig{Node: "e1", Region: "nrt"})
			if err != nil {
				b.Fatal(err)
			}
			l, err := New(f, &recorder{Conn: NewMemory(MemoryConfig{}).Connect("e1")}, Config{Edge: true})
			if err != nil {
				b.Fatal(err)
			}
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			subject := func(kind string, i int) Subject {
				return Subject{
					Cluster: "ebb", Kind: kind, Region: "nrt", Node: balance.NodeID(fmt.Sprintf("w%04d", i)),
				}
			}
			for i := range nodes {
				var encoded [][]byte
				for _, r := range decoded.Rows {
					r.Machine.ID = balance.MachineID(fmt.Sprintf("%04d-%s", i, r.Machine.ID))
					encoded = append(encoded, wire.EncodeRow(r))
				}
				if err := l.message(b.Context(), Message{subject("row", i), wire.EncodeRows(decoded.Header, encoded)}); err != nil {
					b.Fatal(err)
				}
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			m := wire.Load{Header: decoded.Header, Worker: true, Rows: 1}
			for _, r := range decoded.Rows {
				m.Reports = append(m.Reports, wire.Report{Index: r.Index, Load: balance.Load{InFlight: 7, State: balance.StateStarted, Epoch: 1, Limits: r.Machine.Limits}})
			}
			seq := uint64(0)
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				seq++
				m.Seq = seq
				for i := range m.Reports {
					m.Reports[i].Load.Seq = seq
				}
				payload := m.Encode()
				b.StartTimer()
				if err := l.message(b.Context(), Message{subject("load", int(seq)%nodes), payload}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(nodes)/1024, "KiB/node")
			runtime.KeepAlive(l)
		})
	}
}

// BenchmarkChange measures how long a change takes from one fleet to another, through the links and
// an engine without delay: that is what the links add to the engine's own time.
func BenchmarkChange(b *testing.B) {
	m := NewMemory(MemoryConfig{})
	ctx, stop := context.WithCancel(b.Context())
	defer stop()
	start := func(id balance.NodeID) *balance.Fleet {
		f, err := balance.NewFleet(balance.FleetConfig{Node: id, Region: "nrt"})
		if err != nil {
			b.Fatal(err)
		}
		l, err := New(f, m.Connect(id), Config{Edge: id == "e1", Worker: id == "w1"})
		if err != nil {
			b.Fatal(err)
		}
		go l.Run(ctx)
		return f
	}
	w, e := start("w1"), start("e1")
	seen := make(chan struct{}, 1)
	e.OnChange(func(balance.AppID) {
		select {
		case seen <- struct{}{}:
		default:
		}
	})
	await := func(revision string) {
		for {
			if rows, ok := e.App("web"); ok {
				if m, ok := rows.Machine("m1"); ok && m.Revision == revision {
					return
				}
			}
			<-seen
		}
	}
	if _, err := w.Host(balance.Machine{ID: "m1", App: "web", Region: "nrt"}); err != nil {
		b.Fatal(err)
	}
	await("")
	i := 0
	for b.Loop() {
		i++
		revision := fmt.Sprint(i)
		w.Edit("web", "m1", func(m *balance.Machine) { m.Revision = revision })
		await(revision)
	}
}
