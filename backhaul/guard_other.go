//go:build !linux

package backhaul

import (
	"net"
	"time"
)

// userTimeout: elsewhere data that is never acknowledged is given up when the kernel is tired of sending it again.
func userTimeout(*net.TCPConn, time.Duration) {}
