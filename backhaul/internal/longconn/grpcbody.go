package longconn

import (
	"io"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/tcp"
)

// GRPCBody is the body of a gRPC request. Its messages can be ended while a read waits for the
// client: reads run on their own goroutines, into a buffer of GRPCBody. A read that never returns
// is abandoned until the server or caller that owns the body closes it.
type GRPCBody struct {
	io.ReadCloser
	shut chan struct{}
	once sync.Once
	over atomic.Bool // the machine has received, or is about to receive, the end

	data atomic.Bool // data has passed since the last look

	// Used by the reader only; a pool.Body lets one read at a time.
	frames  hop.Frames
	reading bool
	got     chan took
	buf     []byte
	rest    []byte // of buf
	err     error
}

type took struct {
	n   int
	err error
}

// NewGRPCBody returns nil if the request is not a gRPC call.
func NewGRPCBody(r *http.Request) *GRPCBody {
	if r.ProtoMajor != 2 || r.Body == nil || r.Body == http.NoBody ||
		!hop.IsGRPC(hop.MediaType(r.Header)) {
		return nil
	}
	return &GRPCBody{
		ReadCloser: r.Body, shut: make(chan struct{}), got: make(chan took, 1),
		frames: hop.Frames{Kind: hop.FramingGRPC},
	}
}

// finish ends the client's messages after the present one. It reports whether the body was still
// open.
func (s *GRPCBody) finish() bool {
	if s.over.Load() {
		return false
	}
	s.once.Do(func() { close(s.shut) })
	return true
}

func (s *GRPCBody) finished() bool {
	select {
	case <-s.shut:
		return true
	default:
		return false
	}
}

func (s *GRPCBody) Read(p []byte) (int, error) {
	for {
		if s.finished() && s.frames.Whole() {
			s.over.Store(true)
			return 0, io.EOF
		}
		if len(s.rest) > 0 {
			n := copy(p, s.rest)
			n = s.frames.Pass(p[:n], s.finished())
			if n > 0 && !s.data.Load() {
				s.data.Store(true)
			}
			s.rest = s.rest[n:]
			if n > 0 {
				return n, nil
			}
			continue
		}
		if s.err != nil {
			s.over.Store(true)
			return 0, s.err
		}
		if !s.reading {
			s.fetch(len(p))
		}
		var shut <-chan struct{}
		if s.frames.Whole() {
			shut = s.shut
		}
		select {
		case t := <-s.got:
			s.reading = false
			s.rest, s.err = s.buf[:t.n], t.err
			if t.err != nil {
				s.over.Store(true)
			}
		case <-shut:
		}
	}
}

// fetch reads from the client. The buffer grows with the size of the reads.
func (s *GRPCBody) fetch(most int) {
	s.reading = true
	switch {
	case s.buf == nil:
		s.buf = make([]byte, tcp.SmallSize)
	case len(s.buf) < tcp.BufferSize && len(s.buf) < most && cap(s.rest) == 0:
		s.buf = make([]byte, min(tcp.BufferSize, most))
	}
	go func(b []byte) {
		n, err := s.ReadCloser.Read(b)
		s.got <- took{n, err}
	}(s.buf)
}
