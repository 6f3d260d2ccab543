//go:build !linux || 386 || s390x

package backhaul

import (
	"net"
	"syscall"
)

// tcpInfo: elsewhere nobody asks the kernel, and no connection is guarded but by keep-alive probes. Data that is never
// acknowledged is given up when the kernel is tired of sending it again.
type tcpInfo struct{}

func (tcpInfo) closed(syscall.RawConn) bool { return false }

func (tcpInfo) state(syscall.RawConn) (tcpState, bool) { return tcpState{}, false }

// kernel: elsewhere nobody asks the kernel. What a peer sends unasked is noticed when the goroutine that reads has seen it,
// which leaves the moment from its arrival to that.
type kernel struct{}

func (kernel) watch(net.Conn)   {}
func (kernel) holds(int64) bool { return false }
