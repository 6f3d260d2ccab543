//go:build !linux

package backhaul

import "net"

// boundRetries: elsewhere the kernel sends again and probes as it likes.
func boundRetries(*net.TCPConn) {}
