package backhaul

import "encoding/binary"

// clientPreface is what every HTTP/2 client sends first (RFC 9113, 3.4).
const clientPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

const (
	frameHeader    = 9
	frameSettings  = 4
	settingStreams = 3 // SETTINGS_MAX_CONCURRENT_STREAMS
	settingWindow  = 4 // SETTINGS_INITIAL_WINDOW_SIZE
	settingSize    = 6
	maxSettings    = 64 * settingSize // no peer sends as many
)

// settings reads the frame that each side of an HTTP/2 connection sends first. It tells a pool how many streams the peer
// takes before the first one is opened, and an owner which window the edge has chosen for the path between them.
type settings struct {
	buf     []byte
	done    bool   // nothing more is read
	ok      bool   // the frame was there and whole
	streams uint32 // 0 means that the peer named no limit
	window  uint32 // 0 means that the peer named none: 65535
}

// feed takes the next bytes of the connection.
func (s *settings) feed(p []byte) {
	if s.done {
		return
	}
	s.buf = append(s.buf, p[:min(len(p), frameHeader+maxSettings-len(s.buf))]...)
	if len(s.buf) < frameHeader {
		return
	}
	size := int(s.buf[0])<<16 | int(s.buf[1])<<8 | int(s.buf[2])
	const ack = 1
	if s.buf[3] != frameSettings || s.buf[4]&ack != 0 || size > maxSettings || size%settingSize != 0 {
		s.done, s.buf = true, nil
		return
	}
	if len(s.buf) < frameHeader+size {
		return
	}
	for b := s.buf[frameHeader : frameHeader+size]; len(b) > 0; b = b[settingSize:] {
		switch v := binary.BigEndian.Uint32(b[2:]); binary.BigEndian.Uint16(b) {
		case settingStreams:
			s.streams = max(v, 1) // none at all is a pause, not a limit
		case settingWindow:
			s.window = v
		}
	}
	s.done, s.ok, s.buf = true, true, nil
}

// opening is what the first bytes of a connection make of it.
type opening uint8

const (
	openUnknown opening = iota // more bytes are needed
	openHTTP1
	openHTTP2
)

// opened tells the protocols apart. Of HTTP/2 it also returns what follows the preface.
func opened(b []byte) (o opening, rest []byte) {
	n := min(len(b), len(clientPreface))
	switch {
	case string(b[:n]) != clientPreface[:n]:
		return openHTTP1, nil
	case n < len(clientPreface):
		return openUnknown, nil
	}
	return openHTTP2, b[n:]
}
