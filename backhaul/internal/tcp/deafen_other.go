//go:build !linux

package tcp

import "net"

// Deafen can do nothing elsewhere, and says so.
func Deafen(*net.TCPListener, bool) bool { return false }
