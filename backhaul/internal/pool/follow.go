package pool

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
)

// follow tracks the present exchange on a connection to a machine, beside net/http. net/http closes
// a connection as soon as its caller no longer wants the answer, while the machine still works on
// it. If the request was sent and not answered, the connection is then left to the holder of the
// slot, which goes on reading:
//
//	quiet --first byte of a request--> sent --close, settle--> left
//	  ^------settle: it is answered, or the machine has ended it------'
type follow struct {
	on       bool // over HTTP/1.1 to a machine
	state    atomic.Int32
	reader   sync.Mutex    // held while net/http reads
	bodiless atomic.Bool   // the request is a HEAD
	tail     hop.AnswerEnd // fed by whoever reads
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

// write notes that part of a request is about to be sent. It is called before the write, because
// the answer may arrive before the write returns.
func (f *follow) write() {
	if f.on && f.state.Load() == followQuiet {
		f.state.CompareAndSwap(followQuiet, followSent)
	}
}

// unsent notes that none of a request could be sent.
func (f *follow) unsent() { f.state.CompareAndSwap(followSent, followQuiet) }

// read takes in the result of a read.
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
