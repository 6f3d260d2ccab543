package autostart

import (
	"context"
	"net"

	"github.com/ebbkit/ebb/internal/tcpinfo"
)

type connKey struct{}

// requestBytes is the assumed size of a parked request without its body: a few headers.
const requestBytes = 1 << 10

// ConnContext is for [net/http.Server.ConnContext]: it detects that the client of a parked request
// has closed the connection. net/http itself detects that only after the body has been read, and
// large bodies are still unread then. It reads the state of the TCP connection, on Linux every 100
// ms and at hand-over; elsewhere it has no effect, and whoever forwards the request finds out. The
// end of a connection comes after the bytes sent before it: if those fill the receive buffer, it is
// detected only once somebody reads. A client that closes only its sending side and waits for an
// answer counts as gone; net/http treats it the same way once the body has been read.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	if !tcpinfo.Watchable(c) {
		return ctx
	}
	return context.WithValue(ctx, connKey{}, c)
}
