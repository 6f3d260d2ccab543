package longconn

import (
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/pool"
	"github.com/ebbkit/ebb/backhaul/internal/tcp"
	"github.com/ebbkit/ebb/balance"
)

// tunnel is an upgraded connection to a machine that can be told to end. One goroutine reads, one
// writes.
//
// A deadline wakes a reader that waits for the machine. So everything the client gets passes
// through the reader, and our close frame never lands inside another frame.
type tunnel struct {
	long
	rw    io.ReadWriteCloser
	wire  *pool.Wire
	timer atomic.Pointer[time.Timer]

	notified atomic.Bool
	forced   atomic.Bool

	// Used by the reader.
	frames hop.Frames // from the machine
	silent bool       // discard what the machine still sends
	bye    []byte     // the rest of our close frame

	client hop.Frames // from the client; used by the writer
}

func (c *Register) watchUpgrade(
	machine balance.MachineKey, resp *http.Response, x *pool.Exchange,
) Watched {
	rw, ok := resp.Body.(io.ReadWriteCloser)
	if !ok {
		return nil // nobody can use it
	}
	t := &tunnel{long: long{in: c, machine: machine}, rw: rw, wire: x.Conn.Wire}
	t.class = balance.ClassTCP
	if v := resp.Header["Upgrade"]; len(v) > 0 &&
		strings.EqualFold(strings.TrimSpace(v[0]), "websocket") {
		t.class = balance.ClassWebSocket
		t.frames.Kind, t.client.Kind = hop.FramingWebSocket, hop.FramingWebSocket
	}
	t.endable = t
	resp.Body = t
	c.add(&t.long)
	return t
}

// HalfOf returns what ends one direction of an upgraded connection to a machine.
func HalfOf(body io.ReadCloser, machine *pool.Conn) tcp.Halver {
	if t, ok := body.(*tunnel); ok {
		return t
	}
	return machine.Wire
}

var ErrNotified = errors.New("backhaul: the connection was told to end, and has been ended")

func (t *tunnel) lasts() bool { return true }

func (t *tunnel) notify(force time.Duration) {
	t.notified.Store(true)
	t.timer.Store(time.AfterFunc(force, func() {
		t.forced.Store(true)
		t.wake()
	}))
	if t.class == balance.ClassTCP {
		go t.wire.CloseWrite() // over TLS it may block on a write
		return
	}
	t.wake()
}

// wake makes the reader look again. The caller has stored what it will find.
func (t *tunnel) wake() { t.wire.SetReadDeadline(time.Unix(1, 0)) }

func (t *tunnel) Leave() {
	t.in.remove(&t.long)
	if timer := t.timer.Load(); timer != nil {
		timer.Stop()
	}
}

func (t *tunnel) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if n, err := t.farewell(p); n > 0 || err != nil {
			return n, err
		}
		n, err := t.rw.Read(p)
		if t.silent {
			n = 0
		} else {
			n = t.frames.Pass(p[:n], t.ending1001())
			t.follow(&t.frames)
		}
		if err != nil && t.notified.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
			t.wire.SetReadDeadline(time.Time{})
			err = nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// ending1001 reports whether we send the client a close frame: not if the machine has sent its own.
func (t *tunnel) ending1001() bool {
	return t.class == balance.ClassWebSocket && t.notified.Load() && !t.frames.Closing
}

// farewell returns our close frame or the end once it is due.
func (t *tunnel) farewell(p []byte) (int, error) {
	switch {
	case t.ending1001() && t.frames.Whole() && !t.silent:
		t.silent, t.bye = true, hop.GoingAway
		fallthrough
	case len(t.bye) > 0:
		n := copy(p, t.bye)
		t.bye = t.bye[n:]
		return n, nil
	case !t.forced.Load():
	case t.class == balance.ClassTCP:
		return 0, io.EOF
	case t.frames.Whole():
		return 0, ErrNotified
	}
	return 0, nil
}

func (t *tunnel) Write(p []byte) (int, error) {
	t.client.Pass(p, false)
	t.follow(&t.client) // before the machine can receive it
	n, err := t.rw.Write(p)
	if err != nil && t.class == balance.ClassTCP && t.notified.Load() {
		return len(p), nil // the machine knows that nothing more comes; its last bytes still count
	}
	return n, err
}

func (t *tunnel) Close() error { return t.rw.Close() }

// CloseWrite passes on the end of the client's side.
func (t *tunnel) CloseWrite() error {
	if t.class == balance.ClassTCP && t.notified.Load() {
		return nil // done
	}
	return t.wire.CloseWrite()
}
