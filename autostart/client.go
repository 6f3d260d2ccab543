package autostart

import (
	"context"
	"errors"
	"net"

	"github.com/ebbkit/ebb/autostart/internal/waitroom"
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

// errGone ends the wait of one whose client has left.
var errGone = errors.New("its client has left")

// looksMax is how many connections are looked at in a tick: a look is a system call, of some 300
// ns.
const looksMax = 1000

// sweep ends the waits of those whose clients have left.
func (q *queue) sweep() {
	var look []*waitroom.Seat[waiting]
	q.mu.Lock()
	s := q.room.After(nil)
	if q.looked != nil && q.looked.In != nil {
		s = q.room.After(q.looked)
	}
	for ; s != nil && len(look) < looksMax; s = q.room.After(s) {
		if s.Value.conn != nil {
			look = append(look, s)
		}
		q.looked = s
	}
	if s == nil {
		q.looked = nil // from the front again
	}
	q.mu.Unlock()
	for _, s := range look {
		if !tcpinfo.PeerClosed(s.Value.conn) {
			continue
		}
		q.mu.Lock()
		in := q.leave(s)
		q.mu.Unlock()
		if in {
			s.Value.err = errGone
			s.Value.done <- struct{}{}
		}
	}
}
