package hop

import (
	"bytes"
	"encoding/binary"
)

// Framing is how one direction of a long connection is divided into messages.
type Framing uint8

const (
	FramingNone  Framing = iota // any byte is as good a place as any other
	FramingLines                // server-sent events, JSON lines
	// RFC 6455: control frames may stand between any two frames, even within a message
	FramingWebSocket
	FramingGRPC // length-prefixed messages
)

// Frames follows the bytes of one direction, and knows where we may insert something of our own: it
// reads heads, skips payloads, and keeps no bytes of them. The zero value is at the beginning of an
// unframed stream.
type Frames struct {
	Kind Framing
	have uint8 // bytes of head
	head [10]byte
	left uint64 // bytes of the present frame that are still to come, once its head is whole
	open bool   // in the middle of a frame, or of a line
	lost bool   // a frame was malformed: no place is safe any more
	// Closing says that a WebSocket close frame has begun: its sender says nothing after it.
	Closing bool
	Count   uint64 // complete frames that have passed
	// Data says that something other than keep-alive traffic has passed: no control frame of a
	// WebSocket, and no empty line or comment of an event stream. The reader resets it.
	Data bool
}

// Whole reports whether the stream is between two frames.
func (f *Frames) Whole() bool { return !f.open && !f.lost }

// Pass takes p in and returns its length. With stop it takes p only up to the end of the open
// frame, and returns 0 if none is open.
func (f *Frames) Pass(p []byte, stop bool) int {
	n := 0
	for n < len(p) && (!stop || !f.Whole()) {
		n += f.step(p[n:])
	}
	return n
}

// step takes in bytes of p, at least one and none beyond the end of the present frame, and returns
// how many.
func (f *Frames) step(p []byte) int {
	switch {
	case f.Kind == FramingNone || f.lost:
		f.Data = true
		return len(p)
	case f.Kind == FramingLines:
		if !f.open {
			f.head[0] = p[0]
		}
		if first := f.head[0]; first != ':' && first != '\n' && first != '\r' {
			f.Data = true
		}
		n := bytes.IndexByte(p, '\n') + 1
		f.open = n == 0
		if f.open {
			return len(p)
		}
		f.Count++
		return n
	case !f.open || f.have > 0: // in a head
		f.open = true
		f.head[f.have] = p[0]
		f.have++
		if f.have == f.headLen() {
			f.begin()
		}
		return 1
	}
	f.carries()
	n := min(uint64(len(p)), f.left)
	f.left -= n
	f.end()
	return int(n)
}

// headLen returns the length of the present head, as far as it is known.
func (f *Frames) headLen() uint8 {
	if f.Kind == FramingGRPC {
		return 5
	}
	if f.have < 2 {
		return 2
	}
	switch f.head[1] & 0x7f {
	case 126:
		return 4
	case 127:
		return 10
	}
	return 2
}

// begin reads a complete head. The mask's key counts as payload: neither is looked at.
func (f *Frames) begin() {
	f.have = 0
	f.carries()
	switch n := f.head[1] & 0x7f; {
	case f.Kind == FramingGRPC:
		f.left = uint64(binary.BigEndian.Uint32(f.head[1:5]))
		f.lost = f.head[0] > 1
	case n == 126:
		f.left = uint64(binary.BigEndian.Uint16(f.head[2:4]))
	case n == 127:
		f.left = binary.BigEndian.Uint64(f.head[2:10])
		f.lost = f.left >= 1<<63
	default:
		f.left = uint64(n)
	}
	if f.Kind == FramingWebSocket {
		f.Closing = f.Closing || f.head[0]&0x0f == 0x8
		if f.head[1]&0x80 != 0 && !f.lost {
			f.left += 4
		}
	}
	f.end()
}

// carries records whether the present frame is data.
func (f *Frames) carries() {
	const control = 0x8 // opcodes from here on (RFC 6455, 5.2)
	if f.Kind != FramingWebSocket || f.head[0]&0xf < control {
		f.Data = true
	}
}

func (f *Frames) end() {
	if f.left == 0 && !f.lost {
		f.open = false
		f.Count++
	}
}

// GoingAway is a server's close frame: status 1001, with a reason in words.
var GoingAway = []byte("\x88\x0c\x03\xe9going away")
