package backhaul

import (
	"cmp"
	"net/http"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/longconn"
	"github.com/ebbkit/ebb/backhaul/internal/pool"
	"github.com/ebbkit/ebb/balance"
)

// Connections knows the long connections to the machines of this process and tells them to end, as
// [downscale.Connections] asks. A node has one: set it as [HandlerConfig].Connections, as
// [Config].Connections if the node is an edge as well, and in [downscale.Config]. The zero value is
// ready. It is safe for concurrent use, starts nothing, and must not be copied.
//
// Long connections, and how each is told to end:
//
//   - WebSocket: a connection upgraded to "websocket". Between two frames of the machine's the
//     client gets a close frame, 1001 "going away", and after it nothing more. Its answer reaches
//     the machine, which then ends the connection.
//   - TCP: a connection upgraded to anything else. The machine sees the client's half closed; what
//     it sends after that still reaches the client.
//   - Events: an answer without a length of type text/event-stream, JSON lines or
//     multipart/x-mixed-replace. After the present line (if it is compressed, after what has come)
//     the answer ends as if it were complete, and the machine sees its client leave.
//   - Stream: a gRPC call over HTTP/2 whose answer has brought a message and goes on after
//     StreamAge. The machine gets the end of the client's messages, after the present one, so that
//     it ends the call with its own status. If the client had ended its messages before, it gets
//     the status UNAVAILABLE, which clients try again, after the machine's present message. Other
//     calls on the same connections go on.
//
// A connection that has not ended after half of the time it is given is ended from here: a
// WebSocket is closed on both sides, the client of another protocol sees the half-close, a call
// gets UNAVAILABLE. A message is never broken off in the middle.
//
// Everything else is a request, however long it takes. From outside nobody can tell whether a part
// would be taken for the whole, as with a download of unknown length, or an upload.
type Connections struct {
	// StreamAge is the age from which a gRPC call is long; a younger one is a request, which ends by
	// itself. 0 means 10 s.
	StreamAge time.Duration

	register longconn.Register
}

// Long returns how many connections of these classes a machine has: at most as many as are in
// flight at its gate.
func (c *Connections) Long(m balance.Machine, of balance.Class) (n int) {
	return c.register.Long(m, of)
}

// Idle returns how many connections of these classes have carried no data for that long, as far as
// this and earlier calls have seen: call it about once a second.
func (c *Connections) Idle(m balance.Machine, of balance.Class, quiet time.Duration) (n int) {
	return c.register.Idle(m, of, quiet)
}

// Notify tells a machine's connections of these classes to end, except those that have been told.
// It does not block.
func (c *Connections) Notify(m balance.Machine, of balance.Class, within time.Duration) {
	c.register.Notify(m, of, within)
}

// NotifyIdle is Notify for connections that have carried no data for that long.
func (c *Connections) NotifyIdle(m balance.Machine, of balance.Class, quiet, within time.Duration) {
	c.register.NotifyIdle(m, of, quiet, within)
}

// watch registers what resp, the answer to a request, makes of its exchange: see
// [longconn.Register.Watch]. On nil it is a request.
func (c *Connections) watch(
	app balance.AppID, id balance.MachineID, req *http.Request, resp *http.Response, x *pool.Exchange,
	body *longconn.GRPCBody,
) longconn.Watched {
	if c == nil {
		return nil
	}
	return c.register.Watch(
		cmp.Or(c.StreamAge, 10*time.Second), balance.MachineKey{App: app, ID: id}, req, resp, x, body,
	)
}
