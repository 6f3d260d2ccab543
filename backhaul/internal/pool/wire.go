package pool

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/tcp"
)

// leave takes the connection away from net/http if a machine works on a request over it. It reports
// whether it did.
func (w *Wire) leave() bool {
	f := &w.follow
	switch {
	case f.state.Load() == followLeft:
		return true
	case f.answered.Load() || f.ended.Load() || !f.state.CompareAndSwap(followSent, followLeft):
		return f.state.Load() == followLeft
	}
	w.end()
	w.Conn.SetDeadline(
		time.Unix(1, 0),
	) //nolint:errcheck // whoever waits gets up; if not, he ends with the connection
	return true
}

// settle ends an exchange before its connection is used again. It reports whether the machine has
// not ended it; then the connection is left to the caller, see [Wire.reclaim].
func (w *Wire) settle() bool {
	if !w.follow.on {
		return false
	}
	if w.leave() {
		return true
	}
	w.follow.state.Store(followQuiet)
	return false
}

// Drop makes the connection end when it is closed, whatever its machine is doing.
func (w *Wire) Drop() { w.follow.state.CompareAndSwap(followSent, followDropped) }

// reclaim makes a connection that was left usable for its new holder once net/http reads no more.
func (w *Wire) reclaim() {
	w.follow.reader.Lock() // its read returns now; a later one finds that the connection was left
	defer w.follow.reader.Unlock()
	w.Conn.SetDeadline(time.Time{}) //nolint:errcheck // a failing read shows it as well
}

// more continues reading for the holder of a connection that was left.
func (w *Wire) more(p []byte) (int, error) {
	n, err := w.read(p)
	w.got.Add(int64(n))
	w.follow.read(p[:n], err)
	return n, err
}

// Wire is a connection that tracks what went over it. It counts bytes, which shows what was not
// sent. It has no ReadFrom: bodies come from readers that cannot be spliced, and every byte has to
// be counted as it goes.
//
// On HTTP/1.1 only the position of bytes tells whose answer they are, so bytes that arrive while no
// request is under way must never be taken for the answer to the next one. net/http reads all the
// time and gives up a connection on such bytes, unless the next request comes first. So a wire has
// phases:
//
//	open --put back--> idle --first byte of the next request--> open
//	                    '-----anything arrives, or the end-----> spoilt
//
// Bytes that arrive at an idle wire are not handed to net/http. An idle wire is lent only while
// net/http waits in Read, because then no earlier byte is left over; and it opens only if the
// kernel has received no byte that we have not read.
type Wire struct {
	net.Conn
	guarded    tcp.Guarded
	wrote, got atomic.Int64
	Ended      atomic.Bool // our half
	blank      atomic.Bool // what was read last ends in a blank line, as a head does
	hello      *hello      // of HTTP/2: waits for the peer's first frame
	follow     follow

	phase   atomic.Int32
	reading atomic.Bool                   // a goroutine is in Read
	waiter  atomic.Pointer[chan struct{}] // raised for whoever waits for that; nil: nobody
	kernel  tcp.Kernel
	began   int64         // what was written before the present request
	once    sync.Once     // closes over
	over    chan struct{} // nothing more can be read; nil over HTTP/2
}

const (
	phaseOpen int32 = iota
	phaseIdle
	phaseSpoilt
)

var errUnasked = errors.New(
	"backhaul: the peer closed an idle connection, or sent on it what nobody had asked for",
)

func NewWire(c net.Conn, h *hello) *Wire {
	w := &Wire{Conn: c, hello: h}
	if h == nil {
		w.over = make(chan struct{})
		w.kernel.Watch(c)
	}
	return w
}

// rest makes the wire idle: the answer has been read to its end.
func (w *Wire) rest() { w.phase.CompareAndSwap(phaseOpen, phaseIdle) }

// After an answer the goroutine that reads needs a moment to return to Read. Usually it already
// has. Otherwise it is given the processor, and on a busy host a little more time, which is cheaper
// than another connection.
const (
	yields   = 64
	maxStill = 5 * time.Millisecond
)

// still reports whether an idle wire may be lent: no bytes are left in our buffers or the kernel's.
func (w *Wire) still() bool {
	for n := 0; n < yields && !w.reading.Load(); n++ {
		runtime.Gosched()
	}
	if !w.reading.Load() && !w.await() {
		return false // dialling is safer than guessing
	}
	return w.phase.Load() == phaseIdle && !w.kernel.Holds(w.got.Load())
}

// await waits until a goroutine is in Read, or the wire is closed.
func (w *Wire) await() bool {
	came := make(chan struct{}, 1)
	w.waiter.Store(&came)
	defer w.waiter.Store(nil)
	if w.reading.Load() {
		return true
	}
	t := time.NewTimer(maxStill)
	defer t.Stop()
	select {
	case <-came:
	case <-w.over:
	case <-t.C:
	}
	return w.reading.Load()
}

// begin opens an idle wire for a request. Time has passed since it was lent: the request's body may
// have been waited for. Bytes that another goroutine has taken from the kernel and not yet counted
// are seen here, or that goroutine sees that the wire was idle.
func (w *Wire) begin() bool {
	w.follow.begin()
	if w.kernel.Holds(w.got.Load()) || !w.phase.CompareAndSwap(phaseIdle, phaseOpen) {
		return false
	}
	w.began = w.wrote.Load()
	return true
}

func (w *Wire) Read(p []byte) (int, error) {
	w.reading.Store(true)
	if c := w.waiter.Load(); c != nil {
		select {
		case *c <- struct{}{}:
		default:
		}
	}
	n, err := w.take(p)
	err = w.guarded.Err(err)
	w.reading.Store(false)
	if n > 0 && w.phase.Load() != phaseOpen &&
		(w.phase.CompareAndSwap(phaseIdle, phaseSpoilt) || w.phase.Load() == phaseSpoilt) {
		n, err = 0, errUnasked
	}
	if n > 0 && w.hello == nil {
		w.blank.Store(bytes.HasSuffix(p[:n], blankLine) || bytes.HasSuffix(p[:n], bareLine))
	}
	w.got.Add(int64(n))
	if err != nil && w.over != nil {
		w.end()
	}
	if w.hello != nil {
		w.hello.feed(p[:n], err)
	}
	return n, err
}

var blankLine, bareLine = []byte("\n\r\n"), []byte("\n\n")

// take reads for net/http.
func (w *Wire) take(p []byte) (int, error) {
	if !w.follow.on {
		return w.read(p)
	}
	w.follow.reader.Lock()
	defer w.follow.reader.Unlock()
	if w.follow.state.Load() == followLeft {
		return 0, errLeft
	}
	n, err := w.read(p)
	if w.phase.Load() == phaseOpen {
		w.follow.read(p[:n], err)
	}
	return n, err
}

// read separates an end from a reset that a write has already reported.
func (w *Wire) read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if err == io.EOF {
		err = cmp.Or(tcp.EndOf(w.Conn, w.Ended.Load()), err)
	}
	return n, err
}

// Write writes. If a peer answers and closes while a request's body is still being sent, the write
// fails although the answer has arrived or is about to. So the error is returned only when nothing
// more can be read.
func (w *Wire) Write(p []byte) (int, error) {
	if w.follow.state.Load() == followLeft {
		w.CloseWrite() //nolint:errcheck // tells the machine that this request will not be complete
		return 0, errLeft
	}
	if w.phase.Load() != phaseOpen && !w.begin() {
		return 0, errUnasked
	}
	w.guarded.Begin()
	w.follow.write()
	n, err := w.Conn.Write(p)
	w.guarded.End()
	err = w.guarded.Err(err)
	wrote := w.wrote.Add(int64(n))
	switch {
	case err == nil:
	case w.follow.state.Load() == followLeft:
		w.CloseWrite() //nolint:errcheck // as above
	case wrote == w.began:
		w.follow.unsent()
	}
	if err != nil && w.over != nil && wrote > w.began {
		w.wait(hop.Silence)
	}
	return n, err
}

// wait waits until nothing more can be read, or nothing has arrived for that long. When a write
// fails, usually no reads follow beyond what has arrived; the bound covers connections that never
// report an end.
func (w *Wire) wait(most time.Duration) {
	t := time.NewTicker(most)
	defer t.Stop()
	for {
		got := w.got.Load()
		select {
		case <-w.over:
			return
		case <-t.C:
			if w.got.Load() == got {
				return
			}
		}
	}
}

func (w *Wire) end() { w.once.Do(func() { close(w.over) }) }

// Close closes the connection, unless a machine still works on a request.
func (w *Wire) Close() error {
	if w.follow.on && w.leave() {
		return nil
	}
	if w.over != nil {
		w.end()
	}
	return w.Conn.Close()
}

// Abort ends the connection with a reset.
func (w *Wire) Abort() {
	tcp.Reset(w.Conn)
	w.Close()
}

// CloseWrite ends one direction.
func (w *Wire) CloseWrite() error {
	w.Ended.Store(true)
	w.guarded.Begin()
	defer w.guarded.End()
	if c, ok := w.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}
