//go:build !linux

package tcpinfo

import (
	"net"
	"syscall"
	"time"
)

// Reader has no answers on this system.
type Reader struct{}

// Info has no answer.
func (*Reader) Info(syscall.RawConn) (Info, bool) { return Info{}, false }

// MinRTT has no answer.
func (*Reader) MinRTT(syscall.RawConn) (time.Duration, bool) { return 0, false }

// Watchable reports whether [PeerClosed] can tell anything of c.
func Watchable(net.Conn) bool { return false }

// PeerClosed cannot be told here without reading.
func PeerClosed(net.Conn) bool { return false }

// BoundRetries changes nothing: the kernel sends again and probes as it likes.
func BoundRetries(*net.TCPConn, time.Duration) {}
