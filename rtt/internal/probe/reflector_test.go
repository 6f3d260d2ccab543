package probe

import (
	"bytes"
	"maps"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// The 64-bit window accepts each sequence at most once, and every one that is not more than 63
// behind.
func TestReplayWindowEqualsASet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s sender
		seen := map[uint64]bool{}
		high := uint64(0)
		for range rapid.IntRange(1, 200).Draw(t, "n") {
			seq := rapid.Uint64Range(0, 300).Draw(t, "seq")
			want := seq > 0 && !seen[seq] && seq+64 > high
			if got := s.accept(seq); got != want {
				t.Fatalf("accept(%d) = %v with highest %d, seen %v", seq, got, high, seen[seq])
			}
			if want {
				seen[seq] = true
				high = max(high, seq)
			}
		}
	})
}

func TestReflectorLimitsEachSender(t *testing.T) {
	r := NewReflector(7, 10, 5, 100)
	ask := func(now time.Time, who, seq uint64) Drop {
		return r.Answer(now, &Packet{kind: typeProbe, prober: who, seq: seq})
	}
	answered := 0
	for seq := range uint64(1000) { // a flood within a second
		if ask(epoch.Add(time.Duration(seq)*ms), 1, seq+1) == DropNone {
			answered++
		}
	}
	if answered < 14 || answered > 16 {
		t.Errorf("%d of 1000 probes in a second were answered, want a burst of 5 and 10 more", answered)
	}
	if why := ask(epoch, 2, 1); why != DropNone {
		t.Errorf("another sender suffers from it: drop %d", why)
	}
	// A clock that goes back adds no tokens and takes none.
	if why := ask(epoch.Add(-time.Hour), 2, 2); why != DropNone {
		t.Errorf("back in time: drop %d", why)
	}
}

// The rate is exact: a burst, then one answer for each whole token.
func TestReflectorAnswersExactlyItsRate(t *testing.T) {
	const rate, burst = 10, 5
	r := NewReflector(7, rate, burst, 100)
	seq := uint64(0)
	for _, step := range []struct {
		at   time.Duration
		want int // of ten probes
	}{{0, burst}, {0, 0}, {99 * ms, 0}, {100 * ms, 1}, {100 * ms, 0}, {300 * ms, 2}, {time.Hour, burst}} {
		got := 0
		for range 10 {
			seq++
			if r.Answer(epoch.Add(step.at), &Packet{kind: typeProbe, prober: 1, seq: seq}) == DropNone {
				got++
			}
		}
		if got != step.want {
			t.Errorf("at %v: %d of 10 were answered, want %d", step.at, got, step.want)
		}
	}
}

func TestReflectorRemembersABoundedNumber(t *testing.T) {
	r := NewReflector(7, 10, 5, 100)
	for i := range uint64(10_000) {
		r.Answer(epoch.Add(time.Duration(i)*ms), &Packet{kind: typeProbe, prober: i, seq: 1})
		if len(r.senders) > 100 {
			t.Fatalf("%d senders remembered, want at most 100", len(r.senders))
		}
	}
	r.Answer(epoch.Add(time.Hour), &Packet{kind: typeProbe, prober: 1, seq: 1})
	if len(r.senders) != 1 {
		t.Errorf("%d senders remembered an hour later, want 1", len(r.senders))
	}
}

// FuzzReflector feeds any datagrams to a responder: it never sends more bytes than it received,
// never answers a packet that it rejects, and answers no probe twice while it remembers the sender.
func FuzzReflector(f *testing.F) {
	f.Add([]byte{1, 2, 3}, uint8(3))
	f.Add([]byte{0, 0, 1, 1, 255, 9}, uint8(0))
	f.Add(
		append(append([]byte{0, 0x78}, bytes.Repeat([]byte{254, 1}, 600)...), 0, 0x81, 0, 0x78),
		uint8(24),
	) // forgotten, then replayed
	f.Fuzz(func(t *testing.T, script []byte, key uint8) {
		c := NewCodec([][]byte{secretA})
		r := NewReflector(7, 20, 40, 8)
		in, out := 0, 0
		answered := map[[2]uint64]int{}
		heard := map[uint64]time.Time{}
		now := epoch
		for i := 0; i+1 < len(script); i += 2 {
			now = now.Add(time.Duration(script[i]) * ms)
			raw := sealed(
				c,
				Packet{
					kind: 1 + script[i]&1, prober: uint64(script[i+1] >> 4), seq: uint64(script[i+1] & 15),
					nonce: uint64(i),
				},
			)
			forged := script[i]&2 != 0
			if forged {
				raw[int(key)%len(raw)] ^= 1 + key
			}
			in += len(raw)
			var p Packet
			if c.Open(raw, &p) != DropNone {
				continue
			}
			if forged && 1+key != 0 {
				t.Fatal("a forged packet was believed")
			}
			if p.kind != typeProbe {
				continue
			}
			if now.Sub(heard[p.prober]) > senderIdle {
				maps.DeleteFunc(answered, func(id [2]uint64, _ int) bool { return id[0] == p.prober })
			}
			heard[p.prober] = now
			if r.Answer(now, &p) != DropNone {
				continue
			}
			out += PacketSize
			id := [2]uint64{p.prober, p.seq}
			if answered[id]++; answered[id] > 1 && len(r.senders) < 8 {
				t.Fatalf("probe %v was answered twice", id)
			}
			if p.kind != typeReply || p.answerer != 7 {
				t.Fatalf("answer %+v", p)
			}
		}
		if out > in {
			t.Fatalf("%d bytes out for %d in", out, in)
		}
	})
}
