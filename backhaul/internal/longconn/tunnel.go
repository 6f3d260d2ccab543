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
// A reader that waits for the machine is woken by a deadline: so all that the client gets, it gets
// from the reader, and nothing of ours can come in the middle of something.
type tunnel struct {
	long
	rw    io.ReadWriteCloser
	wire  *pool.Wire
	timer atomic.Pointer[time.Timer]

	notified atomic.Bool
	forced   atomic.Bool

	// Of the reader.
	frames hop.Frames // of the machine
	silent bool       // nothing more of the machine's
	bye    []byte     // what the client still has to get of our close frame

	client hop.Frames // of the client; the writer's
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
		go t.wire.CloseWrite() // of TLS it may have to wait for a write
		return
	}
	t.wake()
}

// wake has the reader look. What it is to find has been stored before.
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

// ending1001 reports whether the client is to get a close frame of ours: not where the machine has
// sent its own.
func (t *tunnel) ending1001() bool {
	return t.class == balance.ClassWebSocket && t.notified.Load() && !t.frames.Closing
}

// farewell is what the client gets from us instead of the machine, if it is time.
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
	t.follow(&t.client) // before the machine can have it
	n, err := t.rw.Write(p)
	if err != nil && t.class == balance.ClassTCP && t.notified.Load() {
		return len(p), nil // the machine has been told that nothing comes; what it still says counts
	}
	return n, err
}

func (t *tunnel) Close() error { return t.rw.Close() }

// CloseWrite passes on that the client has nothing more to say.
func (t *tunnel) CloseWrite() error {
	if t.class == balance.ClassTCP && t.notified.Load() {
		return nil // done
	}
	return t.wire.CloseWrite()
}
