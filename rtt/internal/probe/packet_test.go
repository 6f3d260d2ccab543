package probe

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

func sealed(c *Codec, p Packet) []byte {
	var b [PacketSize]byte
	c.Seal(&b, &p)
	return b[:]
}

func TestPacketRoundTrip(t *testing.T) {
	c := NewCodec([][]byte{secretA})
	rapid.Check(t, func(t *rapid.T) {
		u := rapid.Uint64()
		want := Packet{
			kind: rapid.SampledFrom([]byte{typeProbe, typeReply}).
				Draw(t, "kind"),
			flags: rapid.Byte().Draw(t, "flags"),
			prober: u.Draw(
				t, "prober",
			), seq: u.Draw(t, "seq"), nonce: u.Draw(t, "nonce"), received: u.Draw(t, "received"),
			sent: u.Draw(
				t, "sent",
			), count: u.Draw(t, "count"), answerer: u.Draw(t, "answerer"), hint: u.Draw(t, "hint"),
		}
		var got Packet
		if why := c.Open(sealed(c, want), &got); why != DropNone || got != want {
			t.Fatalf("drop %d, got %+v, want %+v", why, got, want)
		}
	})
}

// If any single bit of a packet is flipped, the packet is rejected and nothing is written.
func TestPacketEveryBitCounts(t *testing.T) {
	c := NewCodec([][]byte{secretA})
	raw := sealed(c, Packet{kind: typeProbe, prober: 1, seq: 2, nonce: 3})
	for i := range len(raw) * 8 {
		bad := bytes.Clone(raw)
		bad[i/8] ^= 1 << (i % 8)
		var p Packet
		if why := c.Open(bad, &p); why == DropNone || p != (Packet{}) {
			t.Fatalf("bit %d turned: drop %d, packet %+v", i, why, p)
		}
	}
}

func TestPacketDrops(t *testing.T) {
	a, b := NewCodec([][]byte{secretA}), NewCodec([][]byte{secretB})
	probe := sealed(a, Packet{kind: typeProbe, seq: 1})
	asReply := bytes.Clone(probe)
	asReply[4] = typeReply
	other := bytes.Clone(probe)
	other[3]++
	odd := bytes.Clone(probe)
	odd[4] = 3
	for _, row := range []struct {
		name string
		raw  []byte
		c    *Codec
		want Drop
	}{
		{"empty", nil, a, DropSize},
		{"one byte short", probe[:87], a, DropSize},
		{"one byte long", append(bytes.Clone(probe), 0), a, DropSize},
		{"another version", other, a, DropVersion},
		{"neither probe nor reply", odd, a, DropType},
		{"another key", probe, b, DropKey},
		{"a probe sent back as a reply", asReply, a, DropForged},
		{"zeroes", make([]byte, PacketSize), a, DropVersion},
	} {
		var p Packet
		if got := row.c.Open(row.raw, &p); got != row.want {
			t.Errorf("%s: drop %d, want %d", row.name, got, row.want)
		}
	}
}

// The wire format is fixed, including the derived keys: a probe's and a reply's differ, and nodes
// of different releases measure each other.
func TestPacketsLookTheSameInEveryRelease(t *testing.T) {
	c := NewCodec([][]byte{secretA})
	for kind, want := range map[byte]string{
		typeProbe: "72627401" + "010105d0" + "0100000000000000" + "0200000000000000" + "0300000000000000" + "0400000000000000" +
			"0500000000000000" + "0600000000000000" + "0700000000000000" + "0800000000000000" + "3464234a450f5435f9a856a65d351e7b",
		typeReply: "72627401" + "020105d0" + "0100000000000000" + "0200000000000000" + "0300000000000000" + "0400000000000000" +
			"0500000000000000" + "0600000000000000" + "0700000000000000" + "0800000000000000" + "f403e1b77519cb110ceb2a208f0b5523",
	} {
		p := Packet{
			kind: kind, flags: flagKernel, prober: 1, seq: 2, nonce: 3, received: 4, sent: 5, count: 6,
			answerer: 7, hint: 8,
		}
		if got := fmt.Sprintf("%x", sealed(c, p)); got != want {
			t.Errorf("type %d:\ngot  %s\nwant %s", kind, got, want)
		}
	}
}

// While keys change, both are accepted and the first is used.
func TestPacketRotation(t *testing.T) {
	old, both, next := NewCodec(
		[][]byte{secretA},
	), NewCodec(
		[][]byte{secretB, secretA},
	), NewCodec(
		[][]byte{secretB},
	)
	var p Packet
	if why := both.Open(sealed(old, Packet{kind: typeProbe}), &p); why != DropNone {
		t.Errorf("old key: drop %d", why)
	}
	if why := next.Open(sealed(both, Packet{kind: typeProbe}), &p); why != DropNone {
		t.Errorf("the first key was not used: drop %d", why)
	}
	if why := old.Open(sealed(both, Packet{kind: typeProbe}), &p); why != DropKey {
		t.Errorf("new key at an old node: drop %d, want %d", why, DropKey)
	}
}

func TestSession(t *testing.T) {
	a, b := Session("node-a", 1), Session("node-a", 2)
	if a == b || a>>32 != b>>32 || uint32(a>>32) != idHash("node-a") {
		t.Errorf("two lives of a node: %x and %x; want equal upper halves only", a, b)
	}
}

func TestPacketAllocatesNothing(t *testing.T) {
	c := NewCodec([][]byte{secretA, secretB})
	var b [PacketSize]byte
	p := Packet{kind: typeProbe, seq: 7}
	if n := testing.AllocsPerRun(5000, func() {
		c.Seal(&b, &p)
		c.Open(b[:], &p)
	}); n != 0 {
		t.Errorf("%v allocations per seal and open", n)
	}
}

// FuzzPacket: whatever the input, open does not panic and accepts only packets that were sealed
// with the key, and an accepted packet seals to the same bytes.
func FuzzPacket(f *testing.F) {
	c := NewCodec([][]byte{secretA})
	f.Add(sealed(c, Packet{kind: typeProbe, seq: 1, nonce: 2}))
	f.Add(sealed(c, Packet{kind: typeReply, flags: flagKernel, seq: 1, answerer: 9}))
	f.Add(sealed(NewCodec([][]byte{secretB}), Packet{kind: typeProbe}))
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0xff}, 65507))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var p Packet
		why := c.Open(raw, &p)
		if why != DropNone {
			if p != (Packet{}) {
				t.Fatalf("dropped (%d) but written: %+v", why, p)
			}
			// Sealed again with the key, the same contents must be accepted.
			if len(raw) == PacketSize && why == DropForged {
				b := [PacketSize]byte(raw)
				copy(b[macAt:], c.mac(c.keys[0].hash[b[4]], &b))
				if got := c.Open(b[:], &p); got != DropNone {
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
	c := NewCodec([][]byte{secretA})
	var out [PacketSize]byte
	p := Packet{kind: typeProbe}
	b.ReportAllocs()
	for b.Loop() {
		p.seq++
		c.Seal(&out, &p)
	}
}

func BenchmarkOpen(b *testing.B) {
	c := NewCodec([][]byte{secretA})
	raw := sealed(c, Packet{kind: typeProbe})
	var p Packet
	b.ReportAllocs()
	for b.Loop() {
		if c.Open(raw, &p) != DropNone {
			b.Fatal("dropped")
		}
	}
}
