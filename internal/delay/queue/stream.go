package queue

import "time"

const (
	// Window bounds the bytes on their way in one direction of a connection. At a round trip of 200
	// ms it carries 80 MB/s.
	Window = 8 << 20

	// markCost is what one write counts beyond its bytes, so that a flood of tiny writes is bounded
	// too.
	markCost = 64

	// MaxPiece is how much one write to the far side carries: its room is free again only once the
	// whole is written.
	MaxPiece = 256 << 10

	// smallRing is what an idle direction keeps; more is given back when it runs empty.
	smallRing = 16 << 10
)

// Stream is a line of bytes: a ring that grows as needed, and a mark for every write that says
// when its bytes are due. It is not safe for concurrent use, but the bytes that Peek returned
// stay unchanged until Take removes them, whatever is put meanwhile. The zero value is empty.
type Stream struct {
	ring  []byte // len is its capacity; zero or a power of two
	start int    // index of the oldest byte
	size  int    // bytes held; at most Window
	marks Line[int]
}

// room returns how many bytes Put would accept.
func (s *Stream) room() int { return max(0, Window-s.size-markCost*s.marks.Len()-markCost) }

// Size returns how many bytes it holds.
func (s *Stream) Size() int { return s.size }

// Last returns when the newest byte there ever was is due.
func (s *Stream) Last() time.Time { return s.marks.last }

// Put appends as much of p as there is room for, due after the given delay, and returns how much
// that was.
func (s *Stream) Put(now time.Time, after time.Duration, p []byte) int {
	p = p[:min(len(p), s.room())]
	if len(p) == 0 {
		return 0
	}
	s.grow(s.size + len(p))
	end := (s.start + s.size) & (len(s.ring) - 1)
	n := copy(s.ring[end:], p)
	copy(s.ring, p[n:])
	s.size += len(p)
	s.marks.Push(now, after, len(p))
	return len(p)
}

// Peek returns bytes that are due, without removing them: as many as lie in one piece, up to
// MaxPiece. With none due, wake says when there will be; zero means that the stream is empty.
func (s *Stream) Peek(now time.Time) (p []byte, wake time.Time) {
	n := 0
	for due, size := range s.marks.all() {
		if due.After(now) {
			wake = due
			break
		}
		if n += *size; n >= MaxPiece {
			break
		}
	}
	if n == 0 {
		return nil, wake
	}
	return s.ring[s.start:min(len(s.ring), s.start+min(n, MaxPiece))], time.Time{}
}

// Take removes the n oldest bytes, which Peek returned.
func (s *Stream) Take(n int) {
	s.start = (s.start + n) & (len(s.ring) - 1)
	s.size -= n
	for n > 0 {
		size := s.marks.first()
		if *size > n {
			*size -= n
			return
		}
		n -= s.marks.Pop()
	}
	if s.size == 0 && len(s.ring) > smallRing {
		s.ring, s.start = nil, 0
		s.marks = Line[int]{last: s.marks.last}
	}
}

// grow makes the ring hold at least n bytes. It never writes to the old one, which a Peek may
// still point to.
func (s *Stream) grow(n int) {
	if n <= len(s.ring) {
		return
	}
	size := max(4<<10, len(s.ring))
	for size < n {
		size *= 2
	}
	ring := make([]byte, size)
	k := copy(ring, s.ring[s.start:min(len(s.ring), s.start+s.size)])
	copy(ring[k:], s.ring[:s.size-k])
	s.ring, s.start = ring, 0
}
