package demoapp

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Config is what an app knows of itself.
type Config struct {
	Machine string // its machine's ID; empty means "unnamed"
	Region  string // empty means "nowhere"
	// Epoch is the epoch of the machine's cold start. A resumed machine cannot know its new one: a
	// request that carries the header Ebb-Epoch tells it.
	Epoch uint64
	// ReadyAt is when the app began to listen. Every answer has it in X-Ready-At, in nanoseconds
	// since 1970, so that what a proxy adds to a cold start can be measured from outside.
	ReadyAt time.Time
	// Crash ends the process; nil means that /crash answers 501.
	Crash func()
}

// The bounds of what a request may ask for.
const (
	maxWait   = 10 * time.Minute
	maxEvents = 1_000_000
)

// App is an [http.Handler]. Close ends its streams and WebSockets.
type App struct {
	config   Config
	mux      *http.ServeMux
	inFlight atomic.Int64
	closing  chan struct{}
	close    sync.Once
	upgraded sync.WaitGroup
}

// New returns an app.
func New(c Config) *App {
	if c.Machine == "" {
		c.Machine = "unnamed"
	}
	if c.Region == "" {
		c.Region = "nowhere"
	}
	a := &App{config: c, mux: http.NewServeMux(), closing: make(chan struct{})}
	a.mux.HandleFunc("/{$}", a.index)
	a.mux.HandleFunc("/slow", a.slow)
	a.mux.HandleFunc("/burn", a.burn)
	a.mux.HandleFunc("/upload", a.upload)
	a.mux.HandleFunc("/stream", a.stream)
	a.mux.HandleFunc("/sse", a.sse)
	a.mux.HandleFunc("/ws", a.webSocket)
	a.mux.HandleFunc("/crash", a.crash)
	a.mux.HandleFunc("/healthz", a.healthz)
	a.mux.HandleFunc("/", a.notFound)
	return a
}

// Close makes streams and WebSockets end. Other requests go on.
func (a *App) Close() { a.close.Do(func() { close(a.closing) }) }

// ServeHTTP counts the request as in flight while it is answered, and says in the answer's header
// who answers.
func (a *App) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.inFlight.Add(1)
	defer a.inFlight.Add(-1)
	h := w.Header()
	if !a.config.ReadyAt.IsZero() {
		h.Set("X-Ready-At", strconv.FormatInt(a.config.ReadyAt.UnixNano(), 10))
	}
	h.Set("X-Machine", a.config.Machine)
	h.Set("X-Region", a.config.Region)
	h.Set("X-Epoch", strconv.FormatUint(a.epoch(r), 10))
	a.mux.ServeHTTP(w, r)
}

// epoch returns what the request says of the machine's epoch, else what the app was started with.
func (a *App) epoch(r *http.Request) uint64 {
	if n, err := strconv.ParseUint(r.Header.Get("Ebb-Epoch"), 10, 64); err == nil {
		return n
	}
	return a.config.Epoch
}

const paths = `Try also:
  /slow?ms=500         answers after half a second
  /burn?ms=200         keeps a CPU busy for a fifth of a second
  /upload              counts and digests what is sent (curl --data-binary @file)
  /stream?n=10&ms=200  ten lines, one at a time
  /sse                 an event each second, until you leave
  /ws                  a WebSocket that echoes
  /crash               ends the machine
  /healthz             says ok
`

func (a *App) index(w http.ResponseWriter, r *http.Request) {
	w.Header().Add("Vary", "Accept")
	if strings.Contains(r.Header.Get("Accept"), "application/json") {
		writeJSON(w, struct {
			Machine  string `json:"machine"`
			Region   string `json:"region"`
			Epoch    uint64 `json:"epoch"`
			InFlight int64  `json:"in_flight"`
		}{a.config.Machine, a.config.Region, a.epoch(r), a.inFlight.Load()})
		return
	}
	text(w, http.StatusOK, "Hello from machine %s in region %s, epoch %d, with %d in flight.\n\n%s",
		a.config.Machine, a.config.Region, a.epoch(r), a.inFlight.Load(), paths)
}

func (a *App) notFound(w http.ResponseWriter, r *http.Request) {
	text(w, http.StatusNotFound, "machine %s has no %s\n\n%s", a.config.Machine, r.URL.Path, paths)
}

func (a *App) healthz(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "ok\n") }

func (a *App) slow(w http.ResponseWriter, r *http.Request) {
	d, ok := milliseconds(w, r, 100)
	if !ok {
		return
	}
	if a.wait(r, d, nil) {
		text(w, http.StatusOK, "machine %s waited for %v\n", a.config.Machine, d)
	}
}

// burn computes digests for as long as it was asked to: on a machine with less than a CPU to
// spare, less work is done.
func (a *App) burn(w http.ResponseWriter, r *http.Request) {
	d, ok := milliseconds(w, r, 100)
	if !ok {
		return
	}
	var block [4096]byte
	rounds := 0
	for begin := time.Now(); time.Since(begin) < d && r.Context().Err() == nil; rounds++ {
		sum := sha256.Sum256(block[:])
		copy(block[:], sum[:])
	}
	text(w, http.StatusOK, "machine %s computed %d digests in %v\n", a.config.Machine, rounds, d)
}

func (a *App) upload(w http.ResponseWriter, r *http.Request) {
	digest := sha256.New()
	n, err := io.Copy(digest, r.Body)
	if err != nil {
		text(w, http.StatusBadRequest, "the body ended after %d bytes: %v\n", n, err)
		return
	}
	writeJSON(w, struct {
		Bytes  int64  `json:"bytes"`
		SHA256 string `json:"sha256"`
	}{n, hex.EncodeToString(digest.Sum(nil))})
}

func (a *App) stream(w http.ResponseWriter, r *http.Request) {
	n, ok := count(w, r, 10)
	if !ok {
		return
	}
	pause, ok := milliseconds(w, r, 100)
	if !ok {
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	a.lines(w, r, n, pause, func(i int) string { return fmt.Sprintf("%d from %s\n", i, a.config.Machine) })
}

func (a *App) sse(w http.ResponseWriter, r *http.Request) {
	n, ok := count(w, r, maxEvents)
	if !ok {
		return
	}
	pause, ok := milliseconds(w, r, 1000)
	if !ok {
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	a.lines(w, r, n, pause, func(i int) string {
		return fmt.Sprintf("id: %d\ndata: {\"machine\":%q,\"epoch\":%d,\"n\":%d}\n\n", i, a.config.Machine, a.epoch(r), i)
	})
}

// lines writes and flushes line(1) to line(n) with pauses between them, until the client leaves
// or the app closes.
func (a *App) lines(w http.ResponseWriter, r *http.Request, n int, pause time.Duration, line func(int) string) {
	flush := http.NewResponseController(w)
	if flush.Flush() != nil { // the header at once, so that the client sees the stream begin
		return
	}
	for i := 1; i <= n; i++ {
		if i > 1 && !a.wait(r, pause, a.closing) {
			return
		}
		if _, err := io.WriteString(w, line(i)); err != nil || flush.Flush() != nil {
			return
		}
	}
}

// wait waits for d and reports whether nothing came in between: neither the client's leaving nor
// the end of stop.
func (a *App) wait(r *http.Request, d time.Duration, stop <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.Context().Done():
	case <-stop:
	}
	return false
}

func (a *App) crash(w http.ResponseWriter, _ *http.Request) {
	if a.config.Crash == nil {
		text(w, http.StatusNotImplemented, "this app cannot crash\n")
		return
	}
	a.config.Crash()
}

// milliseconds returns the parameter ms, or def milliseconds without one. When it makes no sense,
// it has answered 400.
func milliseconds(w http.ResponseWriter, r *http.Request, def int) (time.Duration, bool) {
	n, ok := parameter(w, r, "ms", def, int(maxWait/time.Millisecond))
	return time.Duration(n) * time.Millisecond, ok
}

// count is like milliseconds for the parameter n.
func count(w http.ResponseWriter, r *http.Request, def int) (int, bool) {
	return parameter(w, r, "n", def, maxEvents)
}

func parameter(w http.ResponseWriter, r *http.Request, name string, def, most int) (int, bool) {
	s := r.URL.Query().Get(name)
	if s == "" {
		return def, true
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > most {
		text(w, http.StatusBadRequest, "%s=%q: want a number from 0 to %d\n", name, s, most)
		return 0, false
	}
	return n, true
}

func text(w http.ResponseWriter, status int, format string, args ...any) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, format, args...)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}
