package backhaul

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/tcp"
)

// Bounds on reading the rest of a body after its answer.
const (
	// restSize is how much of it is read so that the connection can be used again, as in net/http.
	restSize = 256 << 10
	// restWait bounds the time for that: an answer without a length ends after it.
	restWait = 500 * time.Millisecond
	// lingerIdle and lingerMost bound how long a connection that is no longer used is read from: after
	// the last byte, and in all. nginx has the same (lingering_timeout and lingering_time).
	lingerIdle = 5 * time.Second
	lingerMost = 30 * time.Second
)

// reply is the ResponseWriter of an answer that may go out before the body of its request has come.
// It keeps net/http from guessing a Content-Type unless guess is set.
type reply struct {
	http.ResponseWriter
	r        *http.Request
	status   int  // 0: not written yet
	chunked  bool // over HTTP/1.1
	trailers []string
	hijacked bool

	guess  bool         // net/http may guess a Content-Type
	ending *atomic.Bool // the connection ends with the answer; nil: it does not
	body   *ending      // of the request, under fullDuplex
}

// Unwrap is for [http.ResponseController].
func (w *reply) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader notes how the answer will end.
func (w *reply) WriteHeader(code int) {
	if w.status == 0 && (code >= 200 || code == http.StatusSwitchingProtocols) {
		w.head(code)
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *reply) head(code int) {
	w.status = code
	h := w.Header()
	if code != http.StatusSwitchingProtocols &&
		(w.ending != nil && w.ending.Load() || w.body != nil && w.body.long(w.r, code)) {
		h["Connection"] = []string{"close"} // over HTTP/2 a GOAWAY
	}
	if _, ok := h["Content-Type"]; !ok && !w.guess {
		h["Content-Type"] = nil
	}
	for _, list := range h["Trailer"] {
		for name := range strings.SplitSeq(list, ",") {
			w.trailers = append(w.trailers, http.CanonicalHeaderKey(strings.TrimSpace(name)))
		}
	}
	w.chunked = w.r.ProtoAtLeast(1, 1) && w.r.Method != http.MethodHead &&
		h.Get("Content-Length") == "" && code >= 200 && code != http.StatusNoContent &&
		code != http.StatusNotModified
}

func (w *reply) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(p)
}

// Hijack gives the connection away.
func (w *reply) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	w.hijacked = w.hijacked || err == nil
	return c, rw, err
}

// FlushError is what [http.ResponseController] calls.
func (w *reply) FlushError() error {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Flush is for those who know nothing of FlushError.
func (w *reply) Flush() { w.FlushError() } //nolint:errcheck // the next write tells

// tail returns the end of a chunked answer whose body has been written.
func (w *reply) tail() string {
	if !w.chunked {
		return ""
	}
	h := w.Header()
	t := http.Header{}
	for k, v := range h {
		if name, ok := strings.CutPrefix(k, http.TrailerPrefix); ok {
			t[http.CanonicalHeaderKey(name)] = v
		}
	}
	for _, k := range w.trailers {
		if v, ok := h[k]; ok {
			t[k] = v
		}
	}
	var b strings.Builder
	b.WriteString("0\r\n")
	t.Write(&b) //nolint:errcheck // of a Builder
	b.WriteString("\r\n")
	return b.String()
}

// fullDuplex serves a request with a body over HTTP/1.1 so that its answer may go out before the
// body has come. (HTTP/2 allows that by itself.)
//
// net/http then neglects the rest of the body. If the handler's request has another Body than its
// own, or reading ended in an error, net/http takes the rest for the next request; if somebody
// still reads, it panics (golang/go#68560). So a small rest is read, after which the connection can
// be used again; with a larger one it cannot. Nor can it be closed at once: a client that sends
// everything before it reads anything would be reset, and lose the answer. So the sending side is
// closed, and the connection is read from until the client closes it, or lingerIdle or lingerMost
// has passed. The head of the answer announces this: else a client that has sent everything
// meanwhile would send its next request on the connection.
func fullDuplex(w *reply, serve func(http.ResponseWriter, *http.Request)) {
	c := http.NewResponseController(w.ResponseWriter)
	if w.r.ProtoMajor != 1 || c.EnableFullDuplex() != nil {
		serve(w, w.r)
		return
	}
	own, body := w.own()
	w.body = body
	whole := false
	defer func() {
		if !w.hijacked && !body.ended.Load() {
			w.end(c, body, whole)
		}
	}()
	serve(w, own)
	whole = true
}

// breaking serves a request with a body over HTTP/1.1 so that an answer which breaks off does so at
// once. net/http would first wait for the rest of the body, while the client may wait for the rest
// of the answer.
func breaking(w *reply, serve func(http.ResponseWriter, *http.Request)) {
	own, body := w.own()
	whole := false
	defer func() {
		if !whole && !w.hijacked && !body.ended.Load() {
			body.stop(http.NewResponseController(w.ResponseWriter))
			w.cut()
		}
	}()
	serve(w, own)
	whole = true
}

// own returns a copy of the request whose body tells how far it was read.
func (w *reply) own() (*http.Request, *ending) {
	if w.r.Trailer == nil {
		w.r.Trailer = http.Header{} // net/http fills in that of its request, not of our copy
	}
	own := *w.r
	body := &ending{ReadCloser: w.r.Body}
	own.Body = body
	return &own, body
}

// end ends a request whose body has not ended. An answer that is not whole breaks off.
func (w *reply) end(c *http.ResponseController, body *ending, whole bool) {
	if whole && w.FlushError() == nil && body.rest(w.r) {
		c.SetReadDeadline(time.Now().Add(restWait)) //nolint:errcheck // it can be read, or not
		io.CopyN(io.Discard, body, restSize+1)      //nolint:errcheck // ended tells
		if body.ended.Load() && !body.broken.Load() {
			c.SetReadDeadline(time.Time{}) //nolint:errcheck // the next request has its own
			return
		}
	}
	body.stop(c)
	if !whole {
		w.cut()
		return
	}
	conn, _, err := w.Hijack() // which ends a read that waits for the client
	if err != nil {
		panic(http.ErrAbortHandler) // which closes the connection
	}
	go linger(conn, w.tail())
}

// cut ends an answer that is not whole. If only the connection's end marks the end of the answer,
// the connection is reset.
func (w *reply) cut() {
	if w.hijacked {
		return
	}
	if w.status != 0 {
		w.Flush()
	}
	conn, _, err := w.Hijack()
	if err != nil {
		return // net/http closes it
	}
	if w.status != 0 && !w.r.ProtoAtLeast(1, 1) {
		tcp.Reset(conn)
	}
	conn.Close()
}

// linger ends an answer, and closes its connection once the client has had time to read it.
func linger(c net.Conn, tail string) {
	defer c.Close()
	over := time.Now().Add(lingerMost)
	c.SetWriteDeadline(over) //nolint:errcheck // it can be written, or not
	if _, err := io.WriteString(c, tail); err != nil {
		return
	}
	raw := c
	if t, ok := c.(*tls.Conn); ok {
		t.CloseWrite() //nolint:errcheck // what follows tells
		raw = t.NetConn()
	}
	if tcp.CloseWrite(raw) != nil {
		return
	}
	buf := tcp.GetBuffer()
	defer tcp.PutBuffer(buf)
	for now := time.Now(); now.Before(over); now = time.Now() {
		next := now.Add(lingerIdle)
		if next.After(over) {
			next = over
		}
		if raw.SetReadDeadline(next) != nil {
			return
		}
		if _, err := raw.Read(buf[:]); err != nil {
			return
		}
	}
}

// ending notes how far a body has been read.
type ending struct {
	io.ReadCloser
	mu      sync.Mutex // held by who reads
	stopped bool
	read    atomic.Int64
	ended   atomic.Bool // to its end
	broken  atomic.Bool // reading failed
}

// stop ends a read that waits for the client, and lets no other begin. net/http too waits for a
// read before it gives a connection away; but if that read comes to the end of the body meanwhile,
// it begins another by itself, which nothing ends.
func (e *ending) stop(c *http.ResponseController) {
	c.SetReadDeadline(time.Unix(1, 0)) //nolint:errcheck // what waits then ends with the client
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stopped = true
}

func (e *ending) Read(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stopped {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := e.ReadCloser.Read(p)
	e.read.Add(int64(n))
	if err == io.EOF {
		e.ended.Store(true)
	} else if err != nil {
		e.broken.Store(true)
	}
	return n, err
}

// long reports whether so much of r's body is left when its answer begins that the connection may
// be of no use after it. How much is left of a body of unknown length is not known: an error tells
// that it is not wanted, anything else may be a conversation.
func (e *ending) long(r *http.Request, code int) bool {
	return !e.ended.Load() && (!e.rest(r) || r.ContentLength < 0 && code >= 400)
}

// rest reports whether the rest of r's body may be small, and is on its way.
func (e *ending) rest(r *http.Request) bool {
	read := e.read.Load()
	unasked := read == 0 && r.Header["Expect"] != nil
	return !e.broken.Load() && !unasked && r.ContentLength-read <= restSize
}
