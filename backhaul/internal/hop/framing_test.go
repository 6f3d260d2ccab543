package hop

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func webSocketFrame(first byte, payload int, masked bool) []byte {
	b := []byte{first, 0}
	switch {
	case payload < 126:
		b[1] = byte(payload)
	case payload < 1<<16:
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(payload))
	default:
		b[1] = 127
		b = binary.BigEndian.AppendUint64(b, uint64(payload))
	}
	if masked {
		b[1] |= 0x80
		b = append(b, 1, 2, 3, 4)
	}
	return append(
		b,
		bytes.Repeat([]byte{0x88}, payload)...) // what looks like the head of a close frame
}

func lengthPrefixed(flag byte, payload int) []byte {
	b := binary.BigEndian.AppendUint32([]byte{flag}, uint32(payload))
	return append(b, bytes.Repeat([]byte{1}, payload)...)
}

// Wherever a stream is cut into reads, a frame of ours may come between two of its frames and
// nowhere else.
func TestFramesAreFollowedHoweverTheyArrive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kind := rapid.SampledFrom([]Framing{FramingLines, FramingWebSocket, FramingGRPC}).Draw(t, "kind")
		var stream []byte
		ends := []int{0}
		for range rapid.IntRange(0, 6).Draw(t, "frames") {
			size := rapid.OneOf(rapid.SampledFrom([]int{0, 1, 125, 126, 65535, 65536}), rapid.IntRange(0, 300)).
				Draw(t, "size")
			switch kind {
			case FramingLines:
				stream = append(stream, strings.Repeat("x", size)+"\n"...)
			case FramingWebSocket:
				first := rapid.SampledFrom([]byte{0x81, 0x01, 0x00, 0x80, 0xc2, 0x89}).Draw(t, "first")
				stream = append(stream, webSocketFrame(first, size, rapid.Bool().Draw(t, "masked"))...)
			case FramingGRPC:
				stream = append(stream, lengthPrefixed(byte(size%2), size)...)
			}
			ends = append(ends, len(stream))
		}
		f := Frames{Kind: kind}
		at := 0
		stop := rapid.IntRange(0, len(stream)).Draw(t, "told at")
		for at < len(stream) {
			n := rapid.IntRange(1, len(stream)-at).Draw(t, "read")
			told := at >= stop
			passed := f.Pass(stream[at:at+n], told)
			if !told && passed != n {
				t.Fatalf("passed %d of %d", passed, n)
			}
			at += passed
			if _, end := slices.BinarySearch(ends, at); f.Whole() != end {
				t.Fatalf("at %d of ends %v: whole is %v", at, ends, f.Whole())
			}
			if told && f.Whole() {
				if i, _ := slices.BinarySearch(ends, stop); at != ends[i] && at-passed <= stop {
					t.Fatalf("stopped at %d, told at %d, ends %v", at, stop, ends)
				}
				break
			}
		}
		if f.Closing || f.lost {
			t.Fatalf("closing %v, lost %v", f.Closing, f.lost)
		}
	})
}

func TestFrames(t *testing.T) {
	for _, c := range []struct {
		name                 string
		kind                 Framing
		in                   []byte
		whole, closing, lost bool
		count                uint64
	}{
		{"nothing yet", FramingWebSocket, nil, true, false, false, 0},
		{"half a head", FramingWebSocket, []byte{0x81}, false, false, false, 0},
		{"half a length", FramingWebSocket, []byte{0x82, 126, 1}, false, false, false, 0},
		{"half a payload", FramingWebSocket, []byte{0x81, 2, 'h'}, false, false, false, 0},
		{"a message", FramingWebSocket, []byte{0x81, 2, 'h', 'i'}, true, false, false, 1},
		{"between two fragments", FramingWebSocket, []byte{0x01, 2, 'h', 'i'}, true, false, false, 1},
		{"the head of a close frame", FramingWebSocket, []byte{0x88, 2, 3}, false, true, false, 0},
		{"a close frame", FramingWebSocket, GoingAway, true, true, false, 1},
		{"a length that cannot be", FramingWebSocket, []byte{0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0}, false, false, true, 0},
		{"the longest", FramingWebSocket, []byte{0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0}, false, false, false, 0},
		{"half a gRPC message", FramingGRPC, []byte{0, 0, 0, 0, 2, 1}, false, false, false, 0},
		{"two gRPC messages", FramingGRPC, []byte{0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0}, true, false, false, 2},
		{"no gRPC message", FramingGRPC, []byte("<html>"), false, false, true, 0},
		{"half a line", FramingLines, []byte("data: x\nda"), false, false, false, 1},
		{"any place", FramingNone, []byte("whatever"), true, false, false, 0},
	} {
		f := Frames{Kind: c.kind}
		if n := f.Pass(c.in, false); n != len(c.in) || f.Whole() != c.whole || f.Closing != c.closing ||
			f.lost != c.lost ||
			f.Count != c.count {
			t.Errorf("%s: passed %d of %d, %+v", c.name, n, len(c.in), f)
		}
	}
	if len(GoingAway) != 2+int(GoingAway[1]) || binary.BigEndian.Uint16(GoingAway[2:]) != 1001 {
		t.Errorf("close frame % x", GoingAway)
	}
}

// Reading in one piece and reading in two ends in the same place, whatever the bytes.
func FuzzFrames(f *testing.F) {
	f.Add(uint8(FramingWebSocket), webSocketFrame(0x81, 300, false), 3)
	f.Add(uint8(FramingGRPC), lengthPrefixed(0, 70), 2)
	f.Add(uint8(FramingLines), []byte("a\nb"), 1)
	f.Fuzz(func(t *testing.T, kind uint8, p []byte, at int) {
		one, two := Frames{Kind: Framing(kind % 4)}, Frames{Kind: Framing(kind % 4)}
		one.Pass(p, false)
		at = min(max(at, 0), len(p))
		two.Pass(p[:at], false)
		n := two.Pass(p[at:], true)
		if n < len(p)-at && !two.Whole() {
			t.Fatal("stopped inside a frame")
		}
		two.Pass(p[at+n:], false)
		if one != two {
			t.Fatalf("%+v\n%+v", one, two)
		}
	})
}

func TestFollowingFramesDoesNotAllocate(t *testing.T) {
	p := webSocketFrame(0x82, 70_000, false)
	f := Frames{Kind: FramingWebSocket}
	if n := testing.AllocsPerRun(100, func() { f.Pass(p, false) }); n != 0 {
		t.Errorf("%v allocs", n)
	}
}

// What is only there to keep a connection alive is no data, however it is cut.
func TestKeepAlivesAreNoData(t *testing.T) {
	for _, tt := range []struct {
		name string
		kind Framing
		in   string
		data bool
	}{
		{"a ping", FramingWebSocket, string(webSocketFrame(0x89, 3, false)), false},
		{"a pong of the client", FramingWebSocket, string(webSocketFrame(0x8a, 0, true)), false},
		{"a close frame", FramingWebSocket, string(GoingAway), false},
		{"a message", FramingWebSocket, string(webSocketFrame(0x81, 3, true)), true},
		{"an empty message", FramingWebSocket, string(webSocketFrame(0x82, 0, false)), true},
		{"the rest of a message", FramingWebSocket, string(webSocketFrame(0x80, 300, false)), true},
		{"pings and a message", FramingWebSocket, string(webSocketFrame(0x89, 9, false)) + string(webSocketFrame(0x02, 1, false)), true},
		{"what is no WebSocket", FramingWebSocket, "\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff????", true},
		{"a comment of an event stream", FramingLines, ": still here\n\n", false},
		{"empty lines", FramingLines, "\r\n\n", false},
		{"an event", FramingLines, ":\n\ndata: x\n\n", true},
		{"a message of gRPC", FramingGRPC, string(lengthPrefixed(0, 0)), true},
		{"bytes", FramingNone, "x", true},
	} {
		for size := 1; size <= 3; size++ {
			f := Frames{Kind: tt.kind}
			for rest := []byte(tt.in); len(rest) > 0; {
				n := min(size, len(rest))
				f.Pass(rest[:n], false)
				rest = rest[n:]
			}
			if f.Data != tt.data {
				t.Errorf("%s in pieces of %d: data %v, want %v", tt.name, size, f.Data, tt.data)
			}
		}
	}
}
