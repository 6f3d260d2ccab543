package hop

import (
	"encoding/binary"
)

// ClientPreface is what every HTTP/2 client sends first (RFC 9113, 3.4).
const ClientPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

const (
	FrameHeader    = 9
	FrameSettings  = 4
	SettingStreams = 3 // SETTINGS_MAX_CONCURRENT_STREAMS
	settingWindow  = 4 // SETTINGS_INITIAL_WINDOW_SIZE
	settingSize    = 6
	maxSettings    = 64 * settingSize // no peer sends as many
)

// Settings reads the frame that each side of an HTTP/2 connection sends first. It tells a pool how
// many streams the peer accepts before the first one is opened, and an owner which window the edge
// has chosen for the path between them.
type Settings struct {
	buf     []byte
	Done    bool   // nothing more is read
	OK      bool   // the frame was present and complete
	Streams uint32 // 0 means that the peer named no limit
	Window  uint32 // 0 means that the peer named none: 65535
}

// Feed takes the next bytes of the connection.
func (s *Settings) Feed(p []byte) {
	if s.Done {
		return
	}
	s.buf = append(s.buf, p[:min(len(p), FrameHeader+maxSettings-len(s.buf))]...)
	if len(s.buf) < FrameHeader {
		return
	}
	size := int(s.buf[0])<<16 | int(s.buf[1])<<8 | int(s.buf[2])
	const ack = 1
	if s.buf[3] != FrameSettings || s.buf[4]&ack != 0 || size > maxSettings || size%settingSize != 0 {
		s.Done, s.buf = true, nil
		return
	}
	if len(s.buf) < FrameHeader+size {
		return
	}
	for b := s.buf[FrameHeader : FrameHeader+size]; len(b) > 0; b = b[settingSize:] {
		switch v := binary.BigEndian.Uint32(b[2:]); binary.BigEndian.Uint16(b) {
		case SettingStreams:
			s.Streams = max(v, 1) // zero streams are a pause, not a limit
		case settingWindow:
			s.Window = v
		}
	}
	s.Done, s.OK, s.buf = true, true, nil
}

// Opening is the protocol that the first bytes of a connection show.
type Opening uint8

const (
	OpeningUnknown Opening = iota // more bytes are needed
	OpeningHTTP1
	OpeningHTTP2
)

// Sniff detects the protocol. For HTTP/2 it also returns what follows the preface.
func Sniff(b []byte) (o Opening, rest []byte) {
	n := min(len(b), len(ClientPreface))
	switch {
	case string(b[:n]) != ClientPreface[:n]:
		return OpeningHTTP1, nil
	case n < len(ClientPreface):
		return OpeningUnknown, nil
	}
	return OpeningHTTP2, b[n:]
}
