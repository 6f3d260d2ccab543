package backhaul

import (
	"context"
	"net"
	"os"
	"sync/atomic"
	"syscall"
)

// Listen listens at a TCP address, as [net.Listen] does, for a [Front] or a [Server] that is to end
// without resetting anybody. On Linux its socket can be kept from taking further connections before
// it is closed (see [Front.Drain]): so it is without Multipath TCP, and nobody else has it. Who
// asks the listener for its descriptor shares the socket: it then ends as any other does.
func Listen(addr string) (net.Listener, error) {
	var c net.ListenConfig
	c.SetMultipathTCP(false)
	l, err := c.Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &exclusive{TCPListener: l.(*net.TCPListener)}, nil
}

// exclusive is a listener whose socket nobody else has, while it is not shared.
type exclusive struct {
	*net.TCPListener
	shared atomic.Bool
}

// File is that of [net.TCPListener].
func (l *exclusive) File() (*os.File, error) {
	l.shared.Store(true)
	return l.TCPListener.File()
}

// SyscallConn is that of [net.TCPListener].
func (l *exclusive) SyscallConn() (syscall.RawConn, error) {
	l.shared.Store(true)
	return l.TCPListener.SyscallConn()
}
