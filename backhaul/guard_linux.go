package backhaul

import (
	"net"
	"syscall"
)

// tcpMaxRTO is TCP_RTO_MAX_MS (since Linux 6.15), which package syscall does not name.
const (
	tcpMaxRTO = 44
	maxRTO    = 2000 // milliseconds
)

// boundRetries has the kernel send again, and probe a closed window, every 2 s at the latest, where it can be told. Else the
// pause between two probes doubles up to 2 minutes: a peer that dies after it has read nothing for long is found out that much
// later. It is no bound for the peer's silence: as long as it answers, the kernel goes on.
func boundRetries(c *net.TCPConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpMaxRTO, maxRTO) //nolint:errcheck // older kernels do without
	})
}
