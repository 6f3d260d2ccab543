package autostart

import (
	"context"
	"net"

	"github.com/ebbkit/ebb/internal/tcpinfo"
)

type connKey struct{}

// requestBytes is what a parked request is taken to hold beside its body: a few headers.
const requestBytes = 1 << 10

// ConnContext is for [net/http.Server.ConnContext]: with it a parked request whose client has
// closed the connection is noticed. net/http itself does not notice that before the body has been
// read, and large ones have not been by then. It looks at the state of the TCP connection, on Linux
// every 100 ms and at hand-over; elsewhere it has no effect, and whoever sends the request on finds
// out. The end of a connection stands behind what has been sent: where that fills the receive
// buffer it is not seen before somebody reads. A client that closes its sending side only, and
// waits for an answer, counts as gone; net/http treats it so once the body is read.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	if !tcpinfo.Watchable(c) {
		return ctx
	}
	return context.WithValue(ctx, connKey{}, c)
}
