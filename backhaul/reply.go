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

// How the end of a body is waited for that the answer did not wait for.
const (
	// restSize is how much of it is read so that the connection can be used again. net/http has the
	// same.
	restSize = 256 << 10
	// restWait bounds that: an answer without a length ends after it.
	restWait = 500 * time.Millisecond
	// lingerIdle and lingerMost bound how long a connection is read from that is used no more, after
	// the last byte and together; nginx has the same (lingering_timeout and lingering_time).
	lingerIdle = 5 * time.Second
	lingerMost = 30 * time.Second
)

// reply is the ResponseWriter of an answer that may go out before the body of its request has come.
// It does not have net/http guess a Content-Type, if not told so.
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
		h.Get("Content-Length") == "" && code >= 200 && code != http.StatusNoContent && code != http.StatusNotModified
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

// tail is what is missing of a chunked answer when its body has been written.
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

// fullDuplex serves a request with a body over HTTP/1.1 such that answers, early ones above all, go
// out before the body has come. (HTTP/2 does so by itself.)
//
// net/http then does not look after the rest of the body: it takes it for the next request if the
// handler's request has another Body than its own, or reading ended in an error, and panics when
// somebody still reads (golang/go#68560). So no such connection is used again; a small rest is
// read, and then it can be. Nor is it closed at once: the client, which may send everything before
// it reads anything, would be reset, and lose the answer. It is told that there is no more, and
// read from until it closes or lingerIdle or lingerMost has passed. Where that may come, the head
// of the answer says so: a client that has sent everything meanwhile would send its next request on
// the connection.
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

// breaking serves a request with a body over HTTP/1.1 such that an answer which breaks off does so
// at once. net/http first waits for the rest of the body, and the client perhaps for the rest of
// the answer.
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

// cut ends an answer that is not whole. Where only the end of the connection ends it, that is a
// reset.
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

// linger ends an answer, and its connection when the client has had the time to read it.
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

// stop ends a read that waits for the client, and has no other begin. net/http waits for a read as
// well before it gives a connection away; but where that read comes to the end of the body
// meanwhile, it begins another by itself, which nothing ends then.
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

// long reports whether so much is left of r's body, when its answer begins, that the connection may
// be of no use after it. Of a body of unknown length nobody knows: an error tells that it is not
// wanted, anything else may be a conversation.
func (e *ending) long(r *http.Request, code int) bool {
	return !e.ended.Load() && (!e.rest(r) || r.ContentLength < 0 && code >= 400)
}

// rest reports whether the rest of r's body may be small, and is on its way.
func (e *ending) rest(r *http.Request) bool {
	read := e.read.Load()
	unasked := read == 0 && r.Header["Expect"] != nil
	return !e.broken.Load() && !unasked && r.ContentLength-read <= restSize
}
