//go:build linux && !386 && !s390x

package backhaul

import (
	"encoding/binary"
	"net"
	"syscall"
	"time"
	"unsafe"
)

// Of struct tcp_info, which is part of the kernel's interface and only ever grows: where what is used of it stands. The last
// one came with Linux 4.6.
const (
	tcpEstablished = 1 // state
	tcpClose       = 7

	probesAt   = 3
	unackedAt  = 24
	sentAt     = 44 // milliseconds
	dataAt     = 52
	ackAt      = 56
	resentAt   = 100
	receivedAt = 128 // bytes; the end counts as one
	segmentsAt = 140
	unsentAt   = 144
	infoSize   = 148
)

// tcpInfo asks the kernel about TCP connections. It is not safe for concurrent use.
type tcpInfo struct {
	info [infoSize]byte
	ask  func(fd uintptr)
	ok   bool
}

func (i *tcpInfo) read(fd uintptr) {
	size := uint32(len(i.info))
	_, _, errno := syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, syscall.IPPROTO_TCP, syscall.TCP_INFO,
		uintptr(unsafe.Pointer(&i.info)), uintptr(unsafe.Pointer(&size)), 0)
	i.ok = errno == 0 && size == uint32(len(i.info))
}

// of reports whether there is an answer, which then stands in info.
func (i *tcpInfo) of(raw syscall.RawConn) bool {
	if i.ask == nil {
		i.ask = i.read
	}
	i.ok = false
	return raw.Control(i.ask) == nil && i.ok
}

func (i *tcpInfo) word(at int) uint32 { return binary.NativeEndian.Uint32(i.info[at:]) }

func (i *tcpInfo) ago(at int) time.Duration { return time.Duration(i.word(at)) * time.Millisecond }

// closed reports whether a connection is over in both directions.
func (i *tcpInfo) closed(raw syscall.RawConn) bool { return i.of(raw) && i.info[0] == tcpClose }

// state returns what the guards look at.
func (i *tcpInfo) state(raw syscall.RawConn) (tcpState, bool) {
	if !i.of(raw) {
		return tcpState{}, false
	}
	return tcpState{
		unacked: i.word(unackedAt), unsent: i.word(unsentAt), probes: i.info[probesAt], resent: i.word(resentAt),
		received: i.word(segmentsAt), sent: i.ago(sentAt), heard: min(i.ago(dataAt), i.ago(ackAt)),
	}, true
}

// kernel asks the kernel what a TCP connection has received. To peek for waiting bytes would not do: another goroutine may
// have taken them and not have said so yet, while this count only grows. It is not safe for concurrent use.
type kernel struct {
	raw  syscall.RawConn // nil: no answer
	info tcpInfo
	base int64 // received before we came: a preface of the dialer's, perhaps
}

func (k *kernel) watch(c net.Conn) {
	tcp, ok := c.(*net.TCPConn) // of what TLS reads ahead the kernel knows nothing
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	k.raw = raw
	n, _, ok := k.received()
	if !ok {
		k.raw = nil
	}
	k.base = n
}

func (k *kernel) received() (n int64, established, ok bool) {
	if !k.info.of(k.raw) {
		return 0, false, false
	}
	return int64(binary.NativeEndian.Uint64(k.info.info[receivedAt:])), k.info.info[0] == tcpEstablished, true
}

// holds reports whether the peer has sent more than the got bytes that were read, or has ended the connection.
func (k *kernel) holds(got int64) bool {
	if k.raw == nil {
		return false
	}
	n, established, ok := k.received()
	return ok && (!established || n-k.base > got)
}
