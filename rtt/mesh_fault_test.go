package rtt

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/rtt/internal/probe"
)

// A nearest region that is lost is left at once; when it is back it regains its place.
func TestMeshLostAndBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCluster(t)
		defer w.stop()
		// 1-2: 20ms, 1-3: 30ms
		w.net.SetLink(oneWay(func(a, b int) time.Duration { return time.Duration(a*b) * 5 * ms }))
		var lost, back []string
		var mu sync.Mutex
		a, _ := w.start("a", "ra", 1, func(c *Config) {
			c.Trace = Trace{
				Lost: func(id string) { mu.Lock(); lost = append(lost, id); mu.Unlock() },
				Back: func(id string) { mu.Lock(); back = append(back, id); mu.Unlock() },
			}
		})
		w.start("b", "rb", 2, nil)
		w.start("c", "rc", 3, nil)
		first := func() string { return a.Table().Regions()[0].Name }
		time.Sleep(30 * time.Second)
		if first() != "rb" {
			t.Fatalf("nearest is %s, want rb", first())
		}
		cut := time.Now()
		w.net.SetLink(oneWay(func(x, y int) time.Duration {
			if x*y == 2 { // 1-2
				return time.Hour
			}
			return time.Duration(x*y) * 5 * ms
		}))
		for first() == "rb" && time.Since(cut) < time.Minute {
			time.Sleep(10 * ms)
		}
		if took := time.Since(cut); took > 2500*ms {
			t.Errorf(
				"a lost incumbent was left after %v, want within 2.5s of the cut (1.2s to the next probe, three of them)",
				took,
			)
		} else {
			t.Logf("left after %v", took)
		}
		if d, ok := a.RTT("rb"); d != 0 || ok {
			t.Errorf("RTT of a lost region is %v, %v", d, ok)
		}
		if s, _ := a.Table().To("b"); s.State != StateLost || s.Base != 20*ms {
			t.Errorf("lost peer: %+v", s)
		}
		time.Sleep(time.Minute)
		w.net.SetLink(oneWay(func(x, y int) time.Duration { return time.Duration(x*y) * 5 * ms }))
		time.Sleep(15 * time.Second)
		if d, ok := a.RTT("rb"); first() != "rb" || d != 20*ms || !ok {
			t.Errorf("back: first %s, RTT %v %v", first(), d, ok)
		}
		mu.Lock()
		defer mu.Unlock()
		if !slices.Equal(lost, []string{"b"}) || !slices.Equal(back, []string{"b"}) {
			t.Errorf("lost %v, back %v; want b once each", lost, back)
		}
	})
}

// When all peers fall silent at once, the fault is at this node: the last distances stay.
func TestMeshMassSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCluster(t)
		defer w.stop()
		near := oneWay(func(a, b int) time.Duration { return time.Duration(a*b) * 5 * ms })
		w.net.SetLink(near)
		var back atomic.Int32
		a, _ := w.start(
			"a", "ra", 1, func(c *Config) { c.Trace = Trace{Back: func(string) { back.Add(1) }} },
		)
		for i := 2; i <= 5; i++ {
			w.start(fmt.Sprint("n", i), fmt.Sprint("r", i), i, nil)
		}
		time.Sleep(10 * time.Second)
		w.net.SetLink(func(netip.AddrPort, netip.AddrPort, []byte) []time.Duration { return nil })
		time.Sleep(time.Minute)
		for i := 2; i <= 5; i++ {
			s, _ := a.Table().To(fmt.Sprint("n", i))
			if d, ok := a.RTT(fmt.Sprint("r", i)); !ok || d != time.Duration(i)*10*ms ||
				s.State != StateStale {
				t.Errorf("r%d: %v %v, %v; want its last distance, stale", i, d, ok, s.State)
			}
		}
		if back.Load() > 0 {
			t.Error("peers were reported to be back while nothing answered")
		}
		w.net.SetLink(near)
		time.Sleep(10 * time.Second)
		if back.Load() != 4 {
			t.Errorf("%d of 4 peers were reported to be back", back.Load())
		}
	})
}

// When an address moves or a peer restarts, the distance is never zero, and the new one replaces
// the old at once.
func TestMeshMovedAndRestarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCluster(t)
		defer w.stop()
		w.net.SetLink(oneWay(func(a, b int) time.Duration { return time.Duration(a*b) * 5 * ms }))
		var zero atomic.Bool
		a, _ := w.start("a", "ra", 1, func(c *Config) {
			known := false
			c.Trace = Trace{Table: func(tab *Table) {
				d, ok := tab.RTT("rb")
				if ok && d == 0 || known && !ok && !tab.rows[0].Lost {
					zero.Store(true)
				}
				known = known || ok
			}}
		})
		_, stop := w.start("b", "rb", 2, nil)
		time.Sleep(10 * time.Second)
		stop()
		w.start("b", "rb", 2, nil) // restarted at the same place
		time.Sleep(3 * time.Second)
		if s, _ := a.Table().To("b"); s.State != StateFresh || s.Samples > 4 || s.Base != 20*ms {
			t.Errorf("after a restart: %+v; want a new window", s)
		}
		b2, _ := w.start("b2", "rb2", 4, nil) // answers at the new address, but is not b
		moved := Node{ID: "b", Region: "rb", Addr: simAddr(4)}
		w.replace(moved)
		time.Sleep(5 * time.Second)
		// Either b2 took the probes meant for b for replays of its own, or a rejected the replies.
		if a.Counters().Unasked+b2.Counters().Replayed == 0 {
			t.Errorf(
				"a reply by another node than the one asked was believed: %+v, %+v", a.Counters(),
				b2.Counters(),
			)
		}
		if s, _ := a.Table().To("b"); s.State == StateFresh {
			t.Errorf("b is fresh though another node answers at its address: %+v", s)
		}
		w.start("b", "rb", 6, nil)
		time.Sleep(2 * time.Second)
		if s, _ := a.Table().To("b"); s.State != StateFresh || s.Base != 60*ms {
			t.Errorf("at its new address: %+v; want 60ms, fresh", s)
		}
		if zero.Load() {
			t.Error("the distance of a known region was zero or unknown meanwhile")
		}
	})
}

// Forged, truncated, replayed, reflected, duplicated and late packets, and those from another
// address, change nothing.
func TestMeshBadPackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCluster(t)
		defer w.stop()
		var probe, reply []byte
		a1, b2 := simAddr(1), simAddr(2)
		w.net.SetLink(func(from, to netip.AddrPort, b []byte) []time.Duration {
			if from == a1 {
				probe = slices.Clone(b)
			} else if to == a1 && b[4] == typeReply {
				reply = slices.Clone(b)
			}
			return []time.Duration{10 * ms, 12 * ms} // everything arrives twice
		})
		a, _ := w.start("a", "ra", 1, nil)
		b, _ := w.start("b", "rb", 2, func(c *Config) { c.Peers = nil })
		time.Sleep(10 * time.Second)
		// A packet still under way would meet its own replay below: wait for a moment without one.
		for range 1000 {
			ca, cb := a.Counters(), b.Counters()
			if ca.Sent == ca.Answered && ca.Answered == ca.Unasked && cb.Asked == cb.Replayed &&
				cb.Asked == ca.Sent {
				break
			}
			time.Sleep(ms)
		}

		sentByB := func() int { return w.net.Sent(b2) }
		before, sent := a.Table().regions[0], sentByB()
		ca, cb := a.Counters(), b.Counters()
		if ca.Unasked != ca.Answered || cb.Replayed != cb.Asked {
			t.Errorf("doubled packets: a %+v, b %+v", ca, cb)
		}
		forged := slices.Clone(reply)
		forged[40]++
		reflected := slices.Clone(probe)
		for _, x := range []struct {
			from, to netip.AddrPort
			b        []byte
		}{
			{b2, a1, reply},                    // replayed
			{b2, a1, forged},                   // forged
			{b2, a1, reflected},                // its own probe
			{simAddr(9), a1, reply},            // from another address
			{b2, a1, reply[:87]},               // truncated
			{b2, a1, append(reply[:88:88], 0)}, // too long
			{b2, a1, nil},
			{simAddr(9), b2, probe}, // replayed at the responder, which must not answer
		} {
			w.net.Deliver(x.from, x.to, x.b)
		}
		synctest.Wait()
		da, db := a.Counters(), b.Counters()
		if da.Answered != ca.Answered || da.Unasked != ca.Unasked+2 || da.Forged != ca.Forged+1 ||
			da.Malformed != ca.Malformed+3 ||
			da.Replayed != ca.Replayed+1 {
			t.Errorf("a counted %+v after %+v", da, ca)
		}
		if db.Replayed != cb.Replayed+1 || db.Replied != cb.Replied || sentByB() != sent {
			t.Errorf("b counted %+v after %+v", db, cb)
		}
		// Ten thousand forged packets are counted and cost nobody an answer.
		for range 10_000 {
			w.net.Deliver(simAddr(9), b2, forged)
			if rand.IntN(100) == 0 {
				synctest.Wait()
			}
		}
		synctest.Wait()
		if got := b.Counters(); got.Forged == 0 || sentByB() != sent {
			t.Errorf("a flood: %+v, %d bytes sent", got, sentByB()-sent)
		}
		time.Sleep(5 * time.Second)
		if after := a.Table().regions[0]; after.Base != before.Base || after.State != StateFresh {
			t.Errorf("%+v became %+v", before, after)
		}
	})
}

// A peer that claims to have held packets for nearly all of their round trip gains a factor of
// two at most.
func TestMeshLyingPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCluster(t)
		defer w.stop()
		liar := probe.NewCodec([][]byte{secretA})
		w.net.SetLink(func(from, to netip.AddrPort, b []byte) []time.Duration {
			if from == simAddr(2) && b[4] == typeReply {
				var p probe.Packet
				liar.Open(b, &p)
				now := time.Now()
				p.Stamp(&probe.Arrival{Now: now, Stamped: true}, now.Add(95*ms))
				liar.Seal((*[probe.PacketSize]byte)(b), &p)
			}
			return []time.Duration{50 * ms}
		})
		a, _ := w.start("a", "ra", 1, nil)
		w.start("b", "rb", 2, nil)
		for i := range 90 {
			time.Sleep(time.Second)
			d, ok := a.RTT("rb")
			if want := 50 * ms; i > 2 && (!ok || d < want) {
				t.Fatalf("after %d s: RTT %v, %v; want at least half of the true 100ms", i, d, ok)
			}
		}
	})
}

// A node that was suspended for ten minutes does not lose its peers.
func TestMeshSuspended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCluster(t)
		defer w.stop()
		w.net.SetLink(oneWay(func(a, b int) time.Duration { return time.Duration(a*b) * 5 * ms }))
		var suspend atomic.Bool
		lost := make(chan string, 10)
		a, _ := w.start("a", "ra", 1, func(c *Config) {
			c.Peers = func() []Node {
				if suspend.Swap(false) {
					time.Sleep(10 * time.Minute)
				}
				return w.Peers()
			}
			c.Trace = Trace{Lost: func(id string) { lost <- id }}
		})
		w.start("b", "rb", 2, nil)
		w.start("c", "rc", 3, nil)
		time.Sleep(30 * time.Second)
		suspend.Store(true)
		time.Sleep(2 * time.Second)
		for _, after := range []time.Duration{5 * time.Minute, 5*time.Minute + 2*time.Second} {
			time.Sleep(after)
			if d, ok := a.RTT("rb"); !ok || d != 20*ms {
				t.Errorf("RTT %v, %v", d, ok)
			}
		}
		for _, p := range a.Table().All() {
			if p.State != StateFresh || p.Loss.Lost > 0 {
				t.Errorf("two seconds after it woke: %+v", p)
			}
		}
		select {
		case id := <-lost:
			t.Errorf("%s was lost", id)
		default:
		}
	})
}

// A node that is no longer in the list is forgotten, and measured anew when it is back.
func TestMeshPeersComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCluster(t)
		defer w.stop()
		w.net.SetLink(oneWay(func(a, b int) time.Duration { return time.Duration(a*b) * 5 * ms }))
		var hide atomic.Bool
		a, _ := w.start("a", "ra", 1, func(c *Config) {
			c.Peers = func() []Node {
				return slices.DeleteFunc(w.Peers(), func(n Node) bool { return n.ID == "b" && hide.Load() })
			}
		})
		b, _ := w.start("b", "rb", 2, nil)
		w.start("c", "rc", 3, nil)
		time.Sleep(10 * time.Second)
		if _, ok := a.Table().RTT("rb"); !ok {
			t.Error("b is there and its region is not known")
		}
		hide.Store(true)
		a.Refresh()
		time.Sleep(time.Second)
		tab := a.Table()
		_, known := tab.To("b")
		if _, ok := tab.RTT("rb"); known || ok || len(tab.Regions()) != 1 {
			t.Errorf("b left, but: %v, %v, %v", known, ok, tab.Regions())
		}
		asked := b.Counters().Asked
		time.Sleep(10 * time.Second)
		if n := b.Counters().Asked - asked; n > 15 { // c's, and none of a's
			t.Errorf("b was asked %d times in 10 s", n)
		}
		if d, ok := a.RTT("rc"); !ok || d != 30*ms {
			t.Errorf("rc: %v, %v", d, ok)
		}
		hide.Store(false)
		a.Refresh()
		time.Sleep(450 * ms)
		if d, ok := a.RTT("rb"); !ok || d != 20*ms {
			t.Errorf("b is back: %v, %v", d, ok)
		}
	})
}
