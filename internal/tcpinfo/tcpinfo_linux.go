package tcpinfo

import (
	"encoding/binary"
	"net"
	"syscall"
	"time"
)

// States of a connection, as in the kernel's tcp_states.h.
const (
	established = 1
	closed      = 7
	closeWait   = 8
	lastAck     = 9
)

// Where the fields that are used stand in struct tcp_info. It is part of the kernel's interface and
// only ever grows; the last of these fields came with Linux 4.6.
const (
	probesAt   = 3
	unackedAt  = 24
	sentAt     = 44 // milliseconds
	dataAt     = 52
	ackAt      = 56
	resentAt   = 100
	receivedAt = 128
	segmentsAt = 140
	unsentAt   = 144
	minRTTAt   = 148
	infoSize   = minRTTAt     // what an Info is made of
	bufferSize = minRTTAt + 4 // all that is asked for
)

// Reader asks about connections, and allocates on its first question only. The zero value is ready.
// It is not safe for concurrent use.
type Reader struct {
	buf [bufferSize]byte
	ask func(fd uintptr)
	got uint32 // bytes of buf that are an answer
}

func (r *Reader) query(fd uintptr) {
	r.got = uint32(len(r.buf))
	if getsockopt(fd, &r.buf, &r.got) != 0 {
		r.got = 0
	}
}

// read asks, and reports whether at least size bytes came.
func (r *Reader) read(raw syscall.RawConn, size uint32) bool {
	if r.ask == nil {
		r.ask = r.query
	}
	r.got = 0
	return raw.Control(r.ask) == nil && r.got >= size
}

func (r *Reader) word(at int) uint32 { return binary.NativeEndian.Uint32(r.buf[at:]) }

func (r *Reader) ago(at int) time.Duration { return time.Duration(r.word(at)) * time.Millisecond }

// Info returns what the kernel knows about a connection, false where it cannot be asked or the
// connection is closed on this side.
func (r *Reader) Info(raw syscall.RawConn) (Info, bool) {
	if !r.read(raw, infoSize) {
		return Info{}, false
	}
	return Info{
		Established: r.buf[0] == established, Closed: r.buf[0] == closed,
		Unacked: r.word(unackedAt), Unsent: r.word(unsentAt), Probes: r.buf[probesAt],
		Resent: r.word(resentAt), Segments: r.word(segmentsAt),
		Received: binary.NativeEndian.Uint64(r.buf[receivedAt:]),
		LastSent: r.ago(sentAt), LastHeard: min(r.ago(dataAt), r.ago(ackAt)),
	}, true
}

// MinRTT returns the least round trip of the last five minutes, false where none was measured yet.
func (r *Reader) MinRTT(raw syscall.RawConn) (time.Duration, bool) {
	if !r.read(raw, bufferSize) {
		return 0, false
	}
	us := r.word(minRTTAt)
	return time.Duration(us) * time.Microsecond, us != 0 && us != 1<<32-1
}

// Watchable reports whether [PeerClosed] can tell anything of c.
func Watchable(c net.Conn) bool { return TCP(c) != nil }

// PeerClosed reports whether the other side of c has closed it, or this one has.
func PeerClosed(c net.Conn) bool {
	t := TCP(c)
	if t == nil {
		return false
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return true // closed on this side
	}
	var state byte
	err = raw.Control(func(fd uintptr) {
		// The state is the first byte of tcp_info; the kernel writes as much of it as there is room
		// for. Unlike the whole of it, that much can be read on every architecture.
		v, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_INFO)
		if err == nil {
			var first [4]byte
			binary.NativeEndian.PutUint32(first[:], uint32(v))
			state = first[0]
		}
	})
	return err != nil || state == closed || state == closeWait || state == lastAck
}

// tcpMaxRTO is TCP_RTO_MAX_MS (since Linux 6.15), which package syscall does not name.
const tcpMaxRTO = 44

// BoundRetries makes the kernel send again, and probe a closed window, at least that often, where
// it can be told. Without it the pause between two probes doubles up to 2 minutes: a peer that dies
// after it has read nothing for long is found out that much later. It does not bound the peer's
// silence: as long as it answers, the kernel goes on.
func BoundRetries(c *net.TCPConn, every time.Duration) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		//nolint:errcheck // older kernels do without
		syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpMaxRTO, int(every.Milliseconds()))
	})
}
