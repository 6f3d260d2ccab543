package rtt

import (
	"bytes"
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

var (
	secretA = []byte("sixteen bytes, A")
	secretB = []byte("sixteen bytes, B")
)

func sealed(c *codec, p packet) []byte {
	var b [packetSize]byte
	c.seal(&b, &p)
	return b[:]
}

func TestPacketRoundTrip(t *testing.T) {
	c := newCodec([][]byte{secretA})
	rapid.Check(t, func(t *rapid.T) {
		u := rapid.Uint64()
		want := packet{
			kind: rapid.SampledFrom([]byte{typeProbe, typeReply}).Draw(t, "kind"), flags: rapid.Byte().Draw(t, "flags"),
			prober: u.Draw(t, "prober"), seq: u.Draw(t, "seq"), nonce: u.Draw(t, "nonce"), received: u.Draw(t, "received"),
			sent: u.Draw(t, "sent"), count: u.Draw(t, "count"), answerer: u.Draw(t, "answerer"), hint: u.Draw(t, "hint"),
		}
		var got packet
		if why := c.open(sealed(c, want), &got); why != dropNone || got != want {
			t.Fatalf("drop %d, got %+v, want %+v", why, got, want)
		}
	})
}

// Whatever single bit of a packet is turned, it is not believed, and nothing is written.
func TestPacketEveryBitCounts(t *testing.T) {
	c := newCodec([][]byte{secretA})
	raw := sealed(c, packet{kind: typeProbe, prober: 1, seq: 2, nonce: 3})
	for i := range len(raw) * 8 {
		bad := bytes.Clone(raw)
		bad[i/8] ^= 1 << (i % 8)
		var p packet
		if why := c.open(bad, &p); why == dropNone || p != (packet{}) {
			t.Fatalf("bit %d turned: drop %d, packet %+v", i, why, p)
		}
	}
}

func TestPacketDrops(t *testing.T) {
	a, b := newCodec([][]byte{secretA}), newCodec([][]byte{secretB})
	probe := sealed(a, packet{kind: typeProbe, seq: 1})
	asReply := bytes.Clone(probe)
	asReply[4] = typeReply
	other := bytes.Clone(probe)
	other[3]++
	odd := bytes.Clone(probe)
	odd[4] = 3
	for _, row := range []struct {
		name string
		raw  []byte
		c    *codec
		want drop
	}{
		{"empty", nil, a, dropSize},
		{"one byte short", probe[:87], a, dropSize},
		{"one byte long", append(bytes.Clone(probe), 0), a, dropSize},
		{"another version", other, a, dropVersion},
		{"neither probe nor reply", odd, a, dropType},
		{"another key", probe, b, dropKey},
		{"a probe sent back as a reply", asReply, a, dropForged},
		{"zeroes", make([]byte, packetSize), a, dropVersion},
	} {
		var p packet
		if got := row.c.open(row.raw, &p); got != row.want {
			t.Errorf("%s: drop %d, want %d", row.name, got, row.want)
		}
	}
}

// What is on the wire is fixed, the keys that it is sealed with too: a probe's and a reply's
// differ, and nodes of different releases measure each other.
func TestPacketsLookTheSameInEveryRelease(t *testing.T) {
	c := newCodec([][]byte{secretA})
	for kind, want := range map[byte]string{
		typeProbe: "72627401" + "010105d0" + "0100000000000000" + "0200000000000000" + "0300000000000000" + "0400000000000000" +
			"0500000000000000" + "0600000000000000" + "0700000000000000" + "0800000000000000" + "3464234a450f5435f9a856a65d351e7b",
		typeReply: "72627401" + "020105d0" + "0100000000000000" + "0200000000000000" + "0300000000000000" + "0400000000000000" +
			"0500000000000000" + "0600000000000000" + "0700000000000000" + "0800000000000000" + "f403e1b77519cb110ceb2a208f0b5523",
	} {
		p := packet{
			kind: kind, flags: flagKernel, prober: 1, seq: 2, nonce: 3, received: 4, sent: 5, count: 6,
			answerer: 7, hint: 8,
		}
		if got := fmt.Sprintf("%x", sealed(c, p)); got != want {
			t.Errorf("type %d:\ngot  %s\nwant %s", kind, got, want)
		}
	}
}

// While keys change, both are believed and the first is used.
func TestPacketRotation(t *testing.T) {
	old, both, next := newCodec([][]byte{secretA}), newCodec([][]byte{secretB, secretA}), newCodec([][]byte{secretB})
	var p packet
	if why := both.open(sealed(old, packet{kind: typeProbe}), &p); why != dropNone {
		t.Errorf("old key: drop %d", why)
	}
	if why := next.open(sealed(both, packet{kind: typeProbe}), &p); why != dropNone {
		t.Errorf("the first key was not used: drop %d", why)
	}
	if why := old.open(sealed(both, packet{kind: typeProbe}), &p); why != dropKey {
		t.Errorf("new key at an old node: drop %d, want %d", why, dropKey)
	}
}

func TestSession(t *testing.T) {
	a, b := session("node-a", 1), session("node-a", 2)
	if a == b || a>>32 != b>>32 || uint32(a>>32) != idHash("node-a") {
		t.Errorf("two lives of a node: %x and %x; want equal upper halves only", a, b)
	}
}

func TestPacketAllocatesNothing(t *testing.T) {
	c := newCodec([][]byte{secretA, secretB})
	var b [packetSize]byte
	p := packet{kind: typeProbe, seq: 7}
	if n := testing.AllocsPerRun(5000, func() {
		c.seal(&b, &p)
		c.open(b[:], &p)
	}); n != 0 {
		t.Errorf("%v allocations per seal and open", n)
	}
}

// FuzzPacket: whatever comes in, open does not panic, believes only what was sealed with the key, and a packet it
// believes seals to the same bytes.
func FuzzPacket(f *testing.F) {
	c := newCodec([][]byte{secretA})
	f.Add(sealed(c, packet{kind: typeProbe, seq: 1, nonce: 2}))
	f.Add(sealed(c, packet{kind: typeReply, flags: flagKernel, seq: 1, answerer: 9}))
	f.Add(sealed(newCodec([][]byte{secretB}), packet{kind: typeProbe}))
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0xff}, 65507))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var p packet
		why := c.open(raw, &p)
		if why != dropNone {
			if p != (packet{}) {
				t.Fatalf("dropped (%d) but written: %+v", why, p)
			}
			// Sealed anew by one who has the key, the same contents must be believed.
			if len(raw) == packetSize && why == dropForged {
				b := [packetSize]byte(raw)
				copy(b[macAt:], c.mac(c.keys[0].hash[b[4]], &b))
				if got := c.open(b[:], &p); got != dropNone {
					t.Fatalf("sealed: drop %d", got)
				}
				if again := sealed(c, p); !bytes.Equal(again, b[:]) {
					t.Fatalf("%x opens to %+v, which seals to %x", b, p, again)
				}
			}
			return
		}
		if again := sealed(c, p); !bytes.Equal(again, raw) {
			t.Fatalf("%x opens to %+v, which seals to %x", raw, p, again)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	c := newCodec([][]byte{secretA})
	var out [packetSize]byte
	p := packet{kind: typeProbe}
	b.ReportAllocs()
	for b.Loop() {
		p.seq++
		c.seal(&out, &p)
	}
}

func BenchmarkOpen(b *testing.B) {
	c := newCodec([][]byte{secretA})
	raw := sealed(c, packet{kind: typeProbe})
	var p packet
	b.ReportAllocs()
	for b.Loop() {
		if c.open(raw, &p) != dropNone {
			b.Fatal("dropped")
		}
	}
}
