package backhaul

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/textproto"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/auth"
	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/longconn"
	"github.com/ebbkit/ebb/backhaul/internal/pool"
	"github.com/ebbkit/ebb/balance"
)

// Listener returns l for a server that is not ours: a plain [http.Server] with a Handler behind it. Connections prove in
// it, by the handler's keys, that they come from a node of the cluster; others are closed. The server needs [ConnContext]
// besides. A [Server] does all this for a Handler that it serves itself; where it serves something that is wrapped around
// one, it needs Listener as well.
//
// The key's preface comes inside of TLS: pass what [crypto/tls.NewListener] returned. A server that is to authenticate by
// certificates alone needs no Listener, and handles TLS itself.
//
// A connection has 10 s to prove itself. While more than 1024 have not, each new one closes the oldest of them.
func (h *Handler) Listener(l net.Listener) net.Listener {
	return auth.NewOwnerListener(l, h.auth)
}

// ConnContext is for [http.Server.ConnContext]: it lets a [Handler] know what the connections of its [Handler.Listener]
// have proven. Where the server has other such functions, call them one after the other.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	for {
		switch t := c.(type) {
		case *auth.OwnerConn:
			return t.Context(ctx)
		case *greeted:
			c = t.from
		case interface{ NetConn() net.Conn }:
			c = t.NetConn()
		default:
			return ctx
		}
	}
}

// Handler is the owner's side of the hop: an [http.Handler] that lets a request through the gate of the machine that the
// edge picked and sends it there, or bounces it with the reason and the machine's load. It never waits for a slot. It is
// safe for concurrent use.
//
// Serve it with [NewServer]. A plain [http.Server] needs [Handler.Listener] and [ConnContext], or client certificates that
// it has verified and [HandlerConfig].Certificate accepts, else every request is answered with 403; further an IdleTimeout
// above the edges', and a MaxHeaderBytes above that of their servers.
type Handler struct {
	fleet    *balance.Fleet
	c        HandlerConfig
	auth     *auth.Owner
	machines *pool.Pool

	active   atomic.Int64
	kept     atomic.Int64 // bytes of bodies that may be kept
	sweeper  pool.Sweeper
	services pool.AppTimes
	draining atomic.Bool
	idle     chan struct{} // closed when draining and nothing is active
	isIdle   atomic.Bool
}

// NewHandler returns a handler for the machines that f's node owns. It starts nothing.
func NewHandler(f *balance.Fleet, c HandlerConfig) (*Handler, error) {
	if f == nil {
		return nil, errors.New("backhaul: NewHandler without a fleet: pass the one that hosts the machines")
	}
	if err := c.resolve(); err != nil {
		return nil, err
	}
	h := &Handler{fleet: f, c: c, idle: make(chan struct{})}
	h.auth = &auth.Owner{Keys: hop.AuthKeys(c.Key, c.NextKey), Certificate: c.Certificate, AnyNode: c.AnyNode}
	if hook := c.Trace.Denied; hook != nil {
		h.auth.Denied = func(addr string, err error) { hook(Denied{Addr: addr, Err: err}) }
	}
	h.machines = pool.NewPool(pool.PoolConfig{Near: true, MaxIdle: c.MaxIdle, IdleTimeout: c.IdleTimeout, DialTimeout: c.DialTimeout, HeaderTimeout: c.HeaderTimeout, MaxHeader: c.MaxHeader})
	return h, nil
}

// InFlight returns how many requests are being served, upgraded connections included.
func (h *Handler) InFlight() int { return int(h.active.Load()) }

// Shutdown bounces every further request, waits until those in flight have ended, upgraded connections included, and
// closes the idle connections to machines. It returns ctx's error when that ends first; then it may be called again.
// Call it before [http.Server.Shutdown], which drops requests on connections that it believes idle.
func (h *Handler) Shutdown(ctx context.Context) error {
	h.draining.Store(true)
	h.active.Add(1)
	h.finished() // in case nothing is active
	select {
	case <-h.idle:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	h.machines.Close()
	return nil
}

func (h *Handler) finished() {
	if h.active.Add(-1) == 0 && h.draining.Load() && h.isIdle.CompareAndSwap(false, true) {
		close(h.idle)
	}
}

// ServeHTTP serves one request of an edge.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	node, ok := h.auth.Knows(r)
	if !ok {
		deny(w, http.StatusForbidden, auth.Remedy)
		return
	}
	t, ok := hop.To{}, false
	if v := r.Header[hop.HeaderTo]; len(v) == 1 {
		t, ok = hop.ParseTo(v[0])
	}
	if !ok {
		deny(w, http.StatusBadRequest, "no machine named: only a backhaul.Transport can be served here")
		return
	}
	if node != "" {
		t.Node = node // what it is called says who knows it, not itself
	}
	h.active.Add(1)
	defer h.finished()
	if r.ProtoMajor != 1 || r.ContentLength == 0 {
		h.admit(w, r, t)
		return
	}
	rw, admit := &reply{
		ResponseWriter: w, r: r,
	}, func(w http.ResponseWriter, r *http.Request) { h.admit(w, r, t) }
	if awaited(r) { // such a request needs no help to be answered early
		breaking(rw, admit)
		return
	}
	fullDuplex(rw, admit)
}

// admit lets a request through its machine's gate, or bounces it.
func (h *Handler) admit(w http.ResponseWriter, r *http.Request, t hop.To) {
	gate := h.fleet.Gate(t.App, t.Machine)
	switch {
	case h.draining.Load():
		w.Header().Set("Connection", "close")
		h.bounce(w, t, balance.BounceClosing, balance.Load{})
		return
	case gate == nil:
		h.bounce(w, t, balance.BounceNotHere, balance.Load{})
		return
	}
	load, refused := gate.Enter(t.Token, 0, t.CordonGen)
	if refused != balance.BounceNone {
		h.bounce(w, t, refused, load)
		return
	}
	m, ok := h.row(t)
	if !ok {
		gate.Leave()
		h.bounce(w, t, balance.BounceNotHere, load) // removed this moment
		return
	}
	h.forward(w, r, t, &m, gate, load.Epoch)
}

func (h *Handler) row(t hop.To) (balance.Machine, bool) {
	s, ok := h.fleet.App(t.App)
	if !ok {
		return balance.Machine{}, false
	}
	return s.Machine(t.Machine)
}

var noLength = []string{"0"}

// bounce refuses a request. Its body stays unread.
func (h *Handler) bounce(w http.ResponseWriter, t hop.To, b balance.Bounce, l balance.Load) {
	if h.c.Trace.Bounce != nil {
		h.c.Trace.Bounce(Refused{App: t.App, Machine: t.Machine, Node: t.Node, Reason: b, Load: l})
	}
	hd := w.Header()
	hd[hop.HeaderBounce] = []string{b.String()}
	if l != (balance.Load{}) {
		setLoad(hd, l)
	}
	hd["Content-Length"] = noLength
	w.WriteHeader(http.StatusServiceUnavailable)
}

func setLoad(h http.Header, l balance.Load) {
	h[hop.HeaderLoad] = []string{string(hop.AppendLoad(make([]byte, 0, 48), l))}
}

// fault tells an edge that there is no answer, and how certain it is that nothing was executed.
func fault(w http.ResponseWriter, status int, f Failure, words string) {
	hd := w.Header()
	hd[hop.HeaderFault] = []string{string(hop.AppendFault(nil, f, words))}
	hd["Content-Length"] = noLength
	w.WriteHeader(status)
}

// deny refuses whoever does not belong here. A body that never comes is not waited for: net/http would.
func deny(w http.ResponseWriter, status int, words string) {
	http.NewResponseController(w).SetReadDeadline(time.Now().Add(auth.LingerFor)) //nolint:errcheck // not every server can
	w.Header().Set("Connection", "close")
	fault(w, status, FailureDenied, words)
}

// forward sends an admitted request to its machine and passes the answer back.
func (h *Handler) forward(w http.ResponseWriter, r *http.Request, t hop.To, m *balance.Machine, gate *balance.Gate, epoch uint64) {
	x := pool.Exchange{Used: pool.Used{Pool: h.machines}, Name: pool.MachineName(m), Epoch: epoch}
	place := place{h: h, to: t, gate: gate, epoch: epoch, began: time.Now(), ends: r.ProtoMajor == 1}
	defer func() { place.leave(x.Used) }()
	x.Dial = func(ctx context.Context) (net.Conn, error) { return h.c.DialMachine(ctx, *m) }
	var body *longconn.GRPCBody
	if r.ContentLength != 0 {
		x.Body = pool.NewBody(r)
		if h.c.Connections != nil {
			if body = longconn.NewGRPCBody(r); body != nil {
				x.Body.Through(body)
			}
		}
		x.Peek = awaited(r)
	}
	early := &earlyHints{w: w}
	if v := r.Header[hop.HeaderAsk]; len(v) == 1 && v[0] == askWord[0] && r.ProtoMajor == 2 {
		x.Ready = func() { w.WriteHeader(http.StatusContinue) }
	}
	served := h.serving(w, r, t.App, x.Body)
	defer func() { served.close() }()
	ctx := r.Context()
	if served != nil {
		ctx = served.ctx
	}
	out := outbound(ctx, r, m, early)
	x.H2 = h.c.H2 != nil && h.c.H2(*m) && out.Header["Upgrade"] == nil
	keepTarget(out, x.H2)
	x.Finish = x.H2 && h.app(t.App).Abandoned == balance.AbandonedFinish
	hop.SetEpoch(out.Header, h.c.EpochHeader, epoch)
	if x.Body != nil {
		x.Body.Retain(reopenable(r.ContentLength, x.H2), &h.kept, defaultReplayMemory)
		defer func() { h.kept.Add(-x.Body.Unreserve()) }()
		x.Once = x.H2 && !x.Body.Covers(r.ContentLength) && (r.ContentLength > 0 || r.ProtoMajor == 1)
	}
	resp, fail, err := x.Do(out)
	served.answered()
	early.close()
	if stall := served.stalledBy(); stall != nil && err != nil {
		h.stalled(w, r, t, epoch, stall)
		return
	}
	if err != nil {
		h.failed(w, r, t, gate, epoch, fail, err)
		return
	}
	if x.Body != nil {
		x.Body.ForgetRest()
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		served.stop()
	} else {
		served = served.answering(h, w, r, t.App, resp)
	}
	long := h.c.Connections.watch(t.App, t.Machine, r, resp, &x, body)
	place.answered(resp, long != nil)
	err = h.pass(w, resp, &place, &x, served, long)
	if err != nil {
		panic(http.ErrAbortHandler) // the edge must not take what it has for all
	}
}

// place is a request's slot at a machine.
type place struct {
	h     *Handler
	to    hop.To
	gate  *balance.Gate
	epoch uint64
	began time.Time
	ends  bool // for the edge an answer ends with its last byte: over HTTP/2 trailers may follow
	took  worked
	freed bool
}

// worked is how long a machine has worked on a request; the zero value says nothing.
type worked struct {
	d     time.Duration
	known bool
	ends  bool // it works until the end of the answer
	lasts bool // the slot is held until the handler returns
}

// answered notes the head of an answer. Where its length is known, the work is done; what follows
// takes as long as the client.
func (p *place) answered(resp *http.Response, long bool) {
	switch {
	case long || resp.StatusCode == http.StatusSwitchingProtocols:
		p.took.lasts = true
	case resp.ContentLength >= 0:
		p.took = worked{d: time.Since(p.began), known: true}
	default:
		p.took.ends = true
	}
}

// free frees the slot of a request whose whole answer has been read, before the edge can know.
func (p *place) free() {
	if p.freed || p.took.lasts {
		return
	}
	p.freed = true
	switch {
	case p.took.known:
		p.h.services.Observe(p.to.App, p.took.d)
	case p.took.ends:
		p.h.services.Observe(p.to.App, time.Since(p.began))
	}
	p.gate.Leave()
}

// leave frees the slot, now or when the machine is done.
func (p *place) leave(u pool.Used) {
	h := p.h
	if !u.Release() {
		p.took.lasts = false
		p.free()
		return
	}
	h.active.Add(1)
	freed := p.freed // then it lingers without a slot: a stream that has not ended with its answer
	l := &pool.Lingering{
		Gate: p.gate, Epoch: p.epoch, App: h.app(p.to.App), Sent: u.Sent(), Began: p.began, Times: &h.services,
		Free: func() {
			if !freed {
				p.gate.Leave()
			}
			h.finished()
		},
	}
	if hook := h.c.Trace.Abandoned; hook != nil && !freed {
		l.Hook = func(freed Freed, held time.Duration) {
			hook(Abandoned{p.to.App, p.to.Machine, p.to.Node, p.epoch, freed, held})
		}
	}
	l.Start(u)
}

// app returns an app's row; a zero one where it has been removed.
func (h *Handler) app(id balance.AppID) balance.App {
	if rows, ok := h.fleet.App(id); ok {
		return rows.App()
	}
	return balance.App{ID: id}
}

// What is kept of a body, so that the request can be sent over another connection: over HTTP/2 what a peer takes before it
// says anything, by the protocol's default window; over HTTP/1.1 what is read before anything is written.
const (
	keptForStream = 64 << 10
	keptForWrite  = 4 << 10
)

// reopenable returns how much of a body of that length, 0 or negative where unknown, is kept.
func reopenable(length int64, h2 bool) int {
	most := keptForWrite
	if h2 {
		most = keptForStream
	}
	if length > 0 && length < int64(most) {
		return int(length)
	}
	return most
}

// pass passes an answer, and what it may become, back.
func (h *Handler) pass(w http.ResponseWriter, resp *http.Response, p *place, x *pool.Exchange,
	s *serving, l longconn.Watched) error {
	if l != nil {
		defer l.Leave()
	}
	hd := w.Header()
	if resp.StatusCode == http.StatusSwitchingProtocols {
		hop.CopyHeader(hd, resp.Header, resp.Header["Upgrade"])
		setLoad(hd, p.gate.Load())
		upgrade(w, resp, x.Conn)
		x.Conn = nil // it is no HTTP any more
		return nil
	}
	hop.CopyHeader(hd, resp.Header, nil)
	setLoad(hd, p.gate.Load())
	return answerWith(w, resp, x, s, p)
}

// awaited reports whether a request's body comes when we ask for it.
func awaited(r *http.Request) bool {
	v := r.Header[hop.HeaderAsk]
	return r.Header["Expect"] != nil || len(v) == 1 && v[0] == askBody[0]
}

// stalled answers for a request that its edge should have ended.
func (h *Handler) stalled(w http.ResponseWriter, r *http.Request, t hop.To, epoch uint64, err *StallError) {
	if h.c.Trace.Fault != nil {
		h.c.Trace.Fault(Faulted{
			App: t.App, Machine: t.Machine, Node: t.Node, Epoch: epoch, Failure: FailureClient, Err: err,
		})
	}
	if r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close") // the rest of the body is on its way, or never comes
	}
	fault(w, err.StatusCode(), FailureClient, err.Error())
}

// failed answers for a machine that did not.
func (h *Handler) failed(w http.ResponseWriter, r *http.Request, t hop.To, gate *balance.Gate, epoch uint64, fail Failure, err error) {
	if errors.Is(r.Context().Err(), context.Canceled) || fail == hop.FailureClient {
		panic(http.ErrAbortHandler) // the edge has left, or its body has broken off: nobody to tell
	}
	suspect(gate, epoch, fail, err)
	if h.c.Trace.Fault != nil {
		h.c.Trace.Fault(Faulted{App: t.App, Machine: t.Machine, Node: t.Node, Epoch: epoch, Failure: fail, Err: err})
	}
	setLoad(w.Header(), gate.Load())
	status := http.StatusBadGateway
	if fail == hop.FailureTimeout || fail == hop.FailureDeadline {
		status = http.StatusGatewayTimeout
	}
	fault(w, status, fail, err.Error())
}

// earlyHints passes 1xx answers of a machine on.
type earlyHints struct {
	w http.ResponseWriter

	mu   sync.Mutex // they come on another goroutine, and perhaps too late
	over bool
}

func (e *earlyHints) close() {
	e.mu.Lock()
	e.over = true
	e.mu.Unlock()
}

func (e *earlyHints) got(code int, header textproto.MIMEHeader) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.over || code == http.StatusContinue { // the server asks for bodies by itself
		return nil
	}
	h := e.w.Header()
	hop.CopyHeader(h, http.Header(header), nil)
	e.w.WriteHeader(code)
	clear(h)
	return nil
}
