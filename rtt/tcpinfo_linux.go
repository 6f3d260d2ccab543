package rtt

import (
	"encoding/binary"
	"net"
	"syscall"
	"time"
	"unsafe"
)

// minRTTAt is the offset of tcpi_min_rtt in struct tcp_info; it is part of the kernel's interface and never moves.
const minRTTAt = 148

func minRTT(c net.Conn) (time.Duration, bool) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return 0, false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0, false
	}
	var info [minRTTAt + 4]byte
	size := uint32(len(info))
	var errno syscall.Errno
	err = raw.Control(func(fd uintptr) { errno = tcpInfo(fd, unsafe.Pointer(&info), &size) })
	if err != nil || errno != 0 || size < minRTTAt+4 {
		return 0, false
	}
	us := binary.NativeEndian.Uint32(info[minRTTAt:])
	if us == 0 || us == 1<<32-1 { // none yet
		return 0, false
	}
	return time.Duration(us) * time.Microsecond, true
}
