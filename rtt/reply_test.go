package rtt

import (
	"net/netip"
	"testing"
	"time"
)

// A reply is believed once, when it answers a probe of this life of this node that is under way,
// and comes from the address of a peer that the probe went to. Each of these counts by itself.
func TestOnlyAnswersToOwnProbesAreBelieved(t *testing.T) {
	addr := netip.MustParseAddrPort("192.0.2.1:9000")
	m, err := New(
		Config{Self: Node{ID: "a", Region: "ra"}, Key: secretA, Incarnation: 1, Listen: "127.0.0.1:0"},
	)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	now := time.Now()
	m.setPeers(now, []Node{{ID: "b", Region: "rb", Addr: addr}})
	p := m.byID["b"]
	p.flying.launch(5, 50, mono(now), time.Second, p.path)
	good := packet{
		kind: typeReply, prober: m.session, seq: 5, nonce: 50, count: 1, answerer: session("b", 1),
	}
	for _, c := range []struct {
		name string
		edit func(*packet)
		from string
		want drop
	}{
		{"another node's", func(k *packet) { k.prober = session("c", 1) }, "", dropUnasked},
		{"this node's in an earlier life", func(k *packet) { k.prober = session("a", 0) }, "", dropUnasked},
		{"another sequence", func(k *packet) { k.seq++ }, "", dropUnasked},
		{"another nonce", func(k *packet) { k.nonce++ }, "", dropUnasked},
		{"of no peer", func(k *packet) { k.answerer = session("c", 1) }, "", dropStranger},
		{"from another address", func(*packet) {}, "192.0.2.2:9000", dropUnasked},
		{"the answer", func(*packet) {}, "", dropNone},
		{"the answer again", func(*packet) {}, "", dropUnasked},
	} {
		k, a := good, arrival{from: addr, now: now.Add(10 * ms)}
		if c.edit(&k); c.from != "" {
			a.from = netip.MustParseAddrPort(c.from)
		}
		if got := m.reply(&a, &k); got != c.want {
			t.Errorf("%s: drop %d, want %d", c.name, got, c.want)
		}
	}
}
