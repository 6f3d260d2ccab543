package longconn

import (
	"io"
	"maps"
	"net/http"
	"sync"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/pool"
	"github.com/ebbkit/ebb/balance"
)

// answer is the body of an endless answer which can be told to end.
type answer struct {
	long
	resp    *http.Response
	body    io.ReadCloser
	conn    *pool.Conn
	stream  *pool.Stream // over HTTP/2
	request *GRPCBody    // of a gRPC call; nil: the client's messages cannot be ended
	began   time.Time
	age     time.Duration // after which a gRPC call counts as a long connection

	mu     sync.Mutex
	frames hop.Frames
	stop   bool // at the end of the present frame
	cut    bool // discard what the machine still sends
	over   bool
	timer  *time.Timer
	gone   chan struct{} // made with cut, and closed when the machine has been left
}

func (c *Register) watchAnswer(
	age time.Duration, machine balance.MachineKey, class balance.Class, kind hop.Framing,
	resp *http.Response, x *pool.Exchange, body *GRPCBody,
) Watched {
	o := &answer{
		long: long{in: c, machine: machine, class: class}, resp: resp, body: resp.Body, conn: x.Conn,
		stream: x.Stream, request: body, began: time.Now(), age: age,
	}
	o.frames.Kind = kind
	o.endable = o
	if body != nil {
		o.asked = &body.data
	}
	resp.Body = o
	c.add(&o.long)
	return o
}

func (o *answer) lasts() bool {
	if o.class != balance.ClassStream {
		return true
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.frames.Count > 0 && time.Since(o.began) >= o.age
}

func (o *answer) notify(force time.Duration) {
	o.mu.Lock()
	defer o.unlock()
	if o.over {
		return
	}
	o.timer = time.AfterFunc(force, o.force)
	if o.request == nil || !o.request.finish() {
		o.halt()
	}
}

// force ends an answer that the machine has not ended. A machine that stops in the middle of a line
// has sent its last complete message.
func (o *answer) force() {
	o.mu.Lock()
	defer o.unlock()
	if o.halt(); o.class == balance.ClassEvents && !o.over && !o.cut {
		o.abandon()
	}
}

// halt ends the answer where that is safe: at once, or after the present frame. o.mu is held.
func (o *answer) halt() {
	if o.stop = true; !o.over && !o.cut && o.frames.Whole() {
		o.abandon()
	}
}

// abandon closes the connection to the machine when o.mu is released, which wakes the reader. o.mu
// is held.
func (o *answer) abandon() { o.cut = true }

// unlock releases o.mu, and then closes the connection to the machine if that is due. The
// connection belongs to the caller, so it is closed with no lock held.
func (o *answer) unlock() {
	due := o.cut && o.gone == nil
	if due {
		o.gone = make(chan struct{})
	}
	o.mu.Unlock()
	switch {
	case !due:
		return
	case o.stream != nil:
		o.stream.Cancel(pool.ErrStreamOver)
	default:
		o.conn.Wire.Drop()
		o.conn.Close()
	}
	close(o.gone)
}

// Leave is called before the connection is used again, so that a later notice does not end it.
func (o *answer) Leave() {
	o.mu.Lock()
	o.over = true
	if o.timer != nil {
		o.timer.Stop()
	}
	gone := o.gone
	o.mu.Unlock()
	if gone != nil {
		<-gone
	}
	o.in.remove(&o.long)
}

func (o *answer) Read(p []byte) (int, error) {
	o.mu.Lock()
	cut := o.cut
	o.mu.Unlock()
	if cut {
		return 0, o.end()
	}
	n, err := o.body.Read(p)
	o.mu.Lock()
	defer o.unlock()
	switch {
	case o.cut: // what came meanwhile is behind the end
		return 0, o.end()
	case err == io.EOF && !o.stop:
		return n, err // by itself
	}
	passed := o.frames.Pass(p[:n], o.stop)
	o.follow(&o.frames)
	if err == io.EOF && passed == n {
		return n, err
	}
	n = passed
	if o.stop && o.frames.Whole() {
		if o.abandon(); n == 0 {
			return 0, o.end()
		}
		return n, nil
	}
	return n, err
}

// end completes the answer; for a gRPC call it adds the status.
func (o *answer) end() error {
	if o.class == balance.ClassStream {
		t := maps.Clone(o.resp.Trailer)
		if t == nil {
			t = http.Header{}
		}
		t["Grpc-Status"], t["Grpc-Message"] = unavailable, goesToSleep
		o.resp.Trailer = t
	}
	return io.EOF
}

var unavailable, goesToSleep = []string{"14"}, []string{"the machine goes to sleep: call again"}

func (o *answer) Close() error { return o.body.Close() }
