package backhaul

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/ebbkit/ebb/backhaul/internal/tcp"
	"github.com/ebbkit/ebb/internal/oslimit"
)

// Listen listens at a TCP address, as [net.Listen] does, for a [Front] or a [Server] that is to end
// without resetting anybody. On Linux its socket can refuse further connections before it is closed
// (see [Front.Drain]). For that it is without Multipath TCP, and nobody else may have it: once its
// descriptor has been asked for, it ends as any other listener does.
func Listen(addr string) (net.Listener, error) {
	var c net.ListenConfig
	c.SetMultipathTCP(false)
	l, err := c.Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &exclusive{TCPListener: l.(*net.TCPListener)}, nil
}

// exclusive is a listener whose socket nobody else has, unless it is shared.
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

// LimitConfig configures [LimitListener]. The zero value is valid.
type LimitConfig struct {
	// PerClient is how many connections one client may hold open. A client is an address; of IPv6
	// the /64, which one person has all of. 0 means 256, which leaves room for
	// the offices and carriers that hide many people behind one address; negative: no bound.
	PerClient int
	// Total is how many all may hold together. 0 means 16384, or an eighth of the files that the
	// process may open, if that is less: where edge, worker and the rest are one process, a request
	// needs four. Negative: no bound.
	Total int
	// Refused is called for each connection that is closed at once for being one too many. nil:
	// nothing is called.
	Refused func(client string)
}

// LimitListener returns a listener for clients that closes connections beyond the limits as they
// come. A connection counts until this side closes it. Without limits one client can hold every
// file descriptor of the process.
func LimitListener(l net.Listener, c LimitConfig) (net.Listener, error) {
	if l == nil {
		return nil, fmt.Errorf(
			"backhaul: LimitListener without a listener: pass what net.Listen returned",
		)
	}
	c.PerClient = cmp.Or(c.PerClient, 256)
	c.Total = cmp.Or(c.Total, defaultTotal())
	return &limitListener{Listener: l, c: c, clientOf: clientAddr, open: map[string]int{}}, nil
}

type limitListener struct {
	net.Listener
	c LimitConfig
	// clientOf names the client of a connection.
	clientOf func(net.Conn) string
	mu       sync.Mutex
	open     map[string]int
	total    int
}

// Accept returns the next connection within the limits.
func (l *limitListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		client := l.clientOf(c)
		if l.enter(client) {
			return &limited{Conn: c, l: l, client: client}, nil
		}
		c.Close()
		if l.c.Refused != nil {
			l.c.Refused(client)
		}
	}
}

func (l *limitListener) enter(client string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.c.Total > 0 && l.total >= l.c.Total || l.c.PerClient > 0 && l.open[client] >= l.c.PerClient {
		return false
	}
	l.total++
	l.open[client]++
	return true
}

func (l *limitListener) leave(client string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.open[client]--; l.open[client] <= 0 {
		delete(l.open, client)
	}
}

type limited struct {
	net.Conn
	l      *limitListener
	client string
	once   sync.Once
	used   atomic.Bool // by a request: what Front knows of it
}

// Close closes the connection, and makes room for another.
func (c *limited) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { c.l.leave(c.client) })
	return err
}

// CloseWrite is what ends one direction of an upgraded connection.
func (c *limited) CloseWrite() error { return tcp.CloseWrite(c.Conn) }

// NetConn returns the connection beneath.
func (c *limited) NetConn() net.Conn { return c.Conn }

// Transparent returns it as one whose ends are this one's.
func (c *limited) Transparent() net.Conn { return c.Conn }

func clientAddr(c net.Conn) string {
	host, _, err := net.SplitHostPort(c.RemoteAddr().String())
	if err != nil {
		return c.RemoteAddr().String()
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	if a = a.Unmap().WithZone(""); a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.String()
		}
	}
	return a.String()
}

// defaultTotal is the default of LimitConfig.Total.
func defaultTotal() int {
	if files := oslimit.Files(); files > 0 {
		return max(1, min(16384, files/8))
	}
	return 16384
}
