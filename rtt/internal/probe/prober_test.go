package probe

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/ebbkit/ebb/rtt/internal/estimate"
)

// A reply is accepted once: if it answers a probe under way from this run of this node, and comes
// from the address of a peer that the probe went to. Each condition is tested by itself.
func TestOnlyAnswersToOwnProbesAreBelieved(t *testing.T) {
	addr := netip.MustParseAddrPort("192.0.2.1:9000")
	now := epoch.Add(time.Hour)
	r := NewProber(Config{
		Session: Session("a", 1), Born: epoch, Near: time.Second, Far: time.Second, Budget: 10,
		Random: func() uint64 { return 50 },
	})
	r.SetPeers(now, []Node{{ID: "b", Region: "rb", Addr: addr}})
	p := r.byID["b"]
	p.inflight.add(5, 50, r.mono(now), time.Second, p.path)
	good := Packet{
		kind: typeReply, prober: r.cfg.Session, seq: 5, nonce: 50, count: 1, answerer: Session("b", 1),
	}
	for _, c := range []struct {
		name string
		edit func(*Packet)
		from string
		want Drop
	}{
		{"another node's", func(k *Packet) { k.prober = Session("c", 1) }, "", DropUnasked},
		{"this node's in an earlier life", func(k *Packet) { k.prober = Session("a", 0) }, "", DropUnasked},
		{"another sequence", func(k *Packet) { k.seq++ }, "", DropUnasked},
		{"another nonce", func(k *Packet) { k.nonce++ }, "", DropUnasked},
		{"of no peer", func(k *Packet) { k.answerer = Session("c", 1) }, "", DropStranger},
		{"from another address", func(*Packet) {}, "192.0.2.2:9000", DropUnasked},
		{"the answer", func(*Packet) {}, "", DropNone},
		{"the answer again", func(*Packet) {}, "", DropUnasked},
	} {
		k, a := good, Arrival{From: addr, Now: now.Add(10 * ms)}
		if c.edit(&k); c.from != "" {
			a.From = netip.MustParseAddrPort(c.from)
		}
		if _, got := r.Reply(&a, &k); got != c.want {
			t.Errorf("%s: drop %d, want %d", c.name, got, c.want)
		}
	}
}

// A caller steps a prober through the life of a peer, with a clock of its own: three quick probes,
// then steady ones; lost after three without an answer; and back with the first.
func TestProberIsSteppedThroughAPeersLife(t *testing.T) {
	addr := netip.MustParseAddrPort("192.0.2.1:9000")
	now := epoch
	far := NewReflector(Session("b", 1), 100, 100, 4)
	r := NewProber(Config{
		Session: Session("a", 1), Born: epoch, Near: time.Second, Far: time.Second, Budget: 10,
		Random: func() uint64 { return 1 << 63 }, // half of everything
	})
	r.SetPeers(now, []Node{{ID: "b", Region: "rb", Addr: addr}})
	answers := true
	var sent []time.Duration
	until := func(end time.Duration) Row {
		t.Helper()
		for {
			batch, next := r.Due(now, nil)
			for i := range batch {
				o := &batch[i]
				r.Sent(o, now)
				sent = append(sent, now.Sub(epoch))
				if p := o.Packet; answers && far.Answer(now, &p) == DropNone {
					a := Arrival{From: addr, Now: now.Add(20 * ms)}
					p.Stamp(&a, a.Now)
					if got, why := r.Reply(&a, &p); why != DropNone || got.Sample.RTT != 20*ms {
						t.Fatalf("%+v, drop %d", got, why)
					}
				}
			}
			if next.Sub(epoch) > end {
				now = epoch.Add(end)
				rows := r.Rows(now)
				if len(rows) != 1 {
					t.Fatalf("%d rows", len(rows))
				}
				return rows[0]
			}
			now = next
		}
	}
	if row := until(300 * ms); row.Stat.Base != 20*ms || row.Stat.Samples != 3 {
		t.Errorf("after 300ms: %+v", row.Stat)
	}
	if want := []time.Duration{10 * ms, 110 * ms, 210 * ms}; !slices.Equal(sent, want) {
		t.Errorf("sent at %v, want %v", sent, want)
	}
	row := until(10 * time.Second)
	if n := row.Stat.Samples; n != 13 || row.Stat.State != estimate.StateFresh {
		t.Errorf("after 10 s: %+v", row.Stat)
	}
	answers = false
	if row := until(12 * time.Second); !row.Lost || row.Stat.Base != 20*ms {
		t.Errorf("2 s after it fell silent: %+v", row.Stat)
	}
	answers = true
	if row := until(14 * time.Second); row.Lost {
		t.Errorf("it answers again: %+v", row.Stat)
	}
	if row := until(20 * time.Second); row.Stat.Loss.Lost < 3 {
		t.Errorf("what was not answered in 3 s is lost: %+v", row.Stat)
	}
}
