package pool

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
)

// follow is what a connection to a machine knows of the present exchange, beside net/http: that
// closes a connection as soon as its caller does not want the answer any more, while the machine
// works on. A connection whose request has been sent and not been answered is then left to whoever
// holds the slot, who reads on:
//
//	quiet --first byte of a request--> sent --close, settle--> left
//	  ^------settle: it is answered, or the machine has ended it------'
type follow struct {
	on       bool // over HTTP/1.1 to a machine
	state    atomic.Int32
	reader   sync.Mutex    // held while net/http reads
	bodiless atomic.Bool   // the request is a HEAD
	tail     hop.AnswerEnd // of whoever reads
	answered atomic.Bool
	ended    atomic.Bool // by the machine
}

const (
	followQuiet int32 = iota
	followSent
	followLeft
	followDropped
)

var errLeft = errors.New("backhaul: the answer is not wanted any more")

// begin forgets the last exchange.
func (f *follow) begin() {
	f.tail = hop.AnswerEnd{}
	f.answered.Store(false)
	f.ended.Store(false)
}

// write notes that a part of a request is sent: before that, since the answer may be quicker than
// the return of the write.
func (f *follow) write() {
	if f.on && f.state.Load() == followQuiet {
		f.state.CompareAndSwap(followQuiet, followSent)
	}
}

// unsent notes that nothing of a request could be sent.
func (f *follow) unsent() { f.state.CompareAndSwap(followSent, followQuiet) }

// read takes in what a read has brought.
func (f *follow) read(p []byte, err error) {
	if !f.on {
		return
	}
	if len(p) > 0 {
		f.tail.Feed(p, f.bodiless.Load())
	}
	if f.tail.Done() || err == io.EOF && f.tail.Ends() {
		f.answered.Store(true)
	}
	if err != nil && f.state.Load() != followLeft {
		f.ended.Store(true)
	}
}

// leave takes the connection away from net/http where a machine works on a request for it. It
// reports whether that is so.
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

// settle ends an exchange, before its connection is used again. It reports whether the machine has
// not ended it: then the connection is left to the caller, see [wire.reclaim].
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

// Drop has the connection end when it is closed, whatever its machine does.
func (w *Wire) Drop() { w.follow.state.CompareAndSwap(followSent, followDropped) }

// reclaim makes a connection that was left usable for its new holder, once net/http reads no more.
func (w *Wire) reclaim() {
	w.follow.reader.Lock() // it gets up this moment; who comes later finds that it was left
	defer w.follow.reader.Unlock()
	w.Conn.SetDeadline(time.Time{}) //nolint:errcheck // a read that fails is the end as well
}

// more reads on, for the holder of a connection that was left.
func (w *Wire) more(p []byte) (int, error) {
	n, err := w.read(p)
	w.got.Add(int64(n))
	w.follow.read(p[:n], err)
	return n, err
}
