package longconn

import (
	"io"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/tcp"
)

// GRPCBody is the body of a gRPC request, whose messages can be ended while a read waits for the
// client. Reads of the client run on goroutines of their own and into a buffer of our own; one that
// never returns is left behind, until the server or caller whose body it is closes that.
type GRPCBody struct {
	io.ReadCloser
	shut chan struct{}
	once sync.Once
	over atomic.Bool // the machine has got, or is about to get, the end

	data atomic.Bool // some has passed since somebody looked

	// Of the one who reads; a pool.Body lets one at a time.
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

// NewGRPCBody returns nil for a request that is no gRPC call.
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

// finish ends the client's messages after the present one. It reports whether that is any news to
// the machine.
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

// fetch reads from the client. The buffer grows with what the client has to say.
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
