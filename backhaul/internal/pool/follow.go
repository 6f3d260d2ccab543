package pool

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"

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
