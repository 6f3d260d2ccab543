package queue

import (
	"bytes"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// model is the obvious stream: every byte with the time it is due.
type model struct {
	bytes []byte
	due   []time.Time
	last  time.Time
}

func (m *model) Put(now time.Time, after time.Duration, p []byte) {
	if len(p) == 0 {
		return
	}
	if due := now.Add(after); due.After(m.last) {
		m.last = due
	}
	for _, b := range p {
		m.bytes = append(m.bytes, b)
		m.due = append(m.due, m.last)
	}
}

func (m *model) ready(now time.Time) int {
	n := 0
	for n < len(m.due) && !m.due[n].After(now) {
		n++
	}
	return n
}

func TestStreamIsALine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s Stream
		var m model
		now := time.Unix(1000, 0)
		next := byte(0)
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				p := make([]byte, rapid.OneOf(rapid.IntRange(0, 100), rapid.IntRange(0, 40_000)).Draw(t, "n"))
				for i := range p {
					p[i] = next
					next += 7
				}
				after := time.Duration(rapid.IntRange(0, 50).Draw(t, "after")) * time.Millisecond
				n := s.Put(now, after, p)
				if n > len(p) || n < len(p) && s.room() > 0 {
					t.Fatalf("put %d of %d with room for %d", n, len(p), s.room())
				}
				m.Put(now, after, p[:n])
			},
			"take": func(t *rapid.T) {
				p, wake := s.Peek(now)
				ready := m.ready(now)
				switch {
				case len(p) > ready || len(p) == 0 && ready > 0:
					t.Fatalf("peek has %d bytes, %d are due", len(p), ready)
				case !bytes.Equal(p, m.bytes[:len(p)]):
					t.Fatal("other bytes than were put")
				case len(p) == 0 && len(m.due) > 0 && !wake.Equal(m.due[0]):
					t.Fatalf("wake at %v, the next are due %v", wake, m.due[0])
				case len(p) == 0 && len(m.due) == 0 && !wake.IsZero():
					t.Fatal("an empty stream wants to wake")
				}
				if len(p) > 0 {
					n := rapid.IntRange(1, len(p)).Draw(t, "n")
					s.Take(n)
					m.bytes, m.due = m.bytes[n:], m.due[n:]
				}
			},
			"advance": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 60).Draw(t, "ms")) * time.Millisecond)
			},
			"": func(t *rapid.T) {
				if s.size != len(m.bytes) {
					t.Fatalf("holds %d bytes, want %d", s.size, len(m.bytes))
				}
			},
		})
	})
}

// What peek returned is written to the peer without a lock, while more is put.
func TestStreamLeavesPeekedBytes(t *testing.T) {
	var s Stream
	now := time.Unix(1000, 0)
	s.Put(now, 0, []byte("first"))
	p, _ := s.Peek(now)
	for range 2000 {
		s.Put(now, 0, []byte("more and more"))
	}
	if string(p) != "first" {
		t.Fatalf("peeked bytes became %q", p)
	}
	s.Take(len(p))
	if p, _ := s.Peek(now); !bytes.HasPrefix(p, []byte("more and moremore")) {
		t.Fatalf("then come %.20q", p)
	}
}

func TestStreamIsBounded(t *testing.T) {
	for _, size := range []int{1, 1000, 64 << 10} {
		var s Stream
		now, total := time.Unix(1000, 0), 0
		p := make([]byte, size)
		for n := s.Put(now, time.Second, p); n > 0; n = s.Put(now, time.Second, p) {
			total += n
		}
		if total > Window || len(s.ring) > Window || s.marks.Len()*markCost > Window {
			t.Errorf(
				"writes of %d: %d bytes in a ring of %d and %d marks", size, total, len(s.ring), s.marks.Len(),
			)
		}
		if size >= 1000 && total < Window/2 {
			t.Errorf("writes of %d: full at %d bytes", size, total)
		}
		for s.size > 0 {
			p, _ := s.Peek(now.Add(time.Second))
			s.Take(len(p))
		}
		if len(s.ring) > smallRing {
			t.Errorf("an empty stream keeps a ring of %d", len(s.ring))
		}
	}
}

func TestLineKeepsOrderAndMemory(t *testing.T) {
	var l Line[int]
	now := time.Unix(1000, 0)
	for i := range 100_000 {
		l.Push(now, time.Duration(i%7)*time.Millisecond, i)
		if i >= 10 {
			if got := l.Pop(); got != i-10 {
				t.Fatalf("popped %d, want %d", got, i-10)
			}
		}
	}
	if cap(l.items) > 100 {
		t.Errorf("ten items in a line of %d", cap(l.items))
	}
	var last time.Time
	for due := range l.all() {
		if due.Before(last) {
			t.Errorf("due %v after %v", due, last)
		}
		last = due
	}
}
