//go:build !linux

package rtt

import (
	"net"
	"time"
)

func minRTT(net.Conn) (time.Duration, bool) { return 0, false }
