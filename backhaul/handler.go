package backhaul

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/auth"
	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/pool"
	"github.com/ebbkit/ebb/backhaul/internal/tcp"
	"github.com/ebbkit/ebb/balance"
)

// Handler is the owner's side of the hop: an [http.Handler] that lets a request through the gate of
// the machine that the edge picked and sends it there, or bounces it with the reason and the
// machine's load. It never waits for a slot. It is safe for concurrent use.
//
// Serve it with [NewServer]. A plain [http.Server] needs [Handler.Listener] and
// [Handler.ConnContext], or client certificates that it has verified and that
// [HandlerConfig].Certificate accepts; else every request is answered with 403. Its IdleTimeout has
// to be above 90 s, for which edges keep connections, and its MaxHeaderBytes above that of their
// servers.
type Handler struct {
	fleet    *balance.Fleet
	apps     appRows
	c        HandlerConfig
	auth     *auth.Owner
	machines *pool.Pool

	active   atomic.Int64
	kept     pool.Memory
	sweeper  pool.Sweeper
	services pool.AppTimes
	draining atomic.Bool
	idle     chan struct{} // closed when draining and nothing is active
	isIdle   atomic.Bool
}

// NewHandler returns a handler for the machines that f's node owns. It starts nothing.
func NewHandler(f *balance.Fleet, c HandlerConfig) (*Handler, error) {
	if f == nil {
		return nil, errors.New(
			"backhaul: NewHandler without a fleet: pass the one that hosts the machines",
		)
	}
	if err := c.resolve(); err != nil {
		return nil, err
	}
	h := &Handler{fleet: f, apps: appRows{f}, c: c, idle: make(chan struct{})}
	h.kept.Most = defaultReplayMemory
	h.auth = &auth.Owner{
		Keys: hop.AuthKeys(c.Keys...), Certificate: c.Certificate, AnyNode: c.AnyNode,
	}
	if hook := c.Trace.Event; hook != nil {
		h.auth.Denied = func(err error) { hook(Event{Kind: EventDeny, Err: err}) }
	}
	h.machines = pool.NewPool(
		pool.PoolConfig{
			Near: true, MaxIdle: defaultMaxIdle, IdleTimeout: c.MachineConfig.idleTimeout,
			DialTimeout: c.dialTimeout, HeaderTimeout: c.HeaderTimeout, MaxHeader: defaultMaxHeader,
		},
	)
	return h, nil
}

// Listener returns l for a server that is not ours: a plain [http.Server] with a Handler behind it.
// Connections prove in it, by the handler's keys, that they come from a node of the cluster; others
// are closed. The server needs [Handler.ConnContext] besides. A [Server] does all this for a
// Handler that it serves itself; where it serves something that is wrapped around one, it needs
// Listener as well.
//
// The key's preface comes inside of TLS: pass what [crypto/tls.NewListener] returned. A server that
// is to authenticate by certificates alone needs no Listener, and handles TLS itself.
//
// A connection has 10 s to prove itself. While more than 1024 have not, each new one closes the
// oldest of them.
func (h *Handler) Listener(l net.Listener) net.Listener {
	return auth.NewOwnerListener(l, h.auth)
}

// ConnContext is for [http.Server.ConnContext]: by it the Handler knows what the connections of its
// Listener have proven. If the server needs other such functions, call them one after the other.
func (h *Handler) ConnContext(ctx context.Context, c net.Conn) context.Context {
	return proven(ctx, c)
}

// proven returns a context with what a connection has proven.
func proven(ctx context.Context, c net.Conn) context.Context {
	if s, ok := c.(*serverConn); ok {
		c = s.from
	}
	if o, ok := tcp.Beneath[*auth.OwnerConn](c); ok {
		return o.Context(ctx)
	}
	return ctx
}

// InFlight returns how many requests are being served, upgraded connections included.
func (h *Handler) InFlight() int { return int(h.active.Load()) }

// Shutdown bounces every further request, waits until those in flight have ended, upgraded
// connections included, and closes the idle connections to machines. It returns ctx's error when
// that ends first; then it may be called again. Call it before [http.Server.Shutdown], which drops
// requests on connections that it believes idle.
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
	} else if len(v) == 0 && len(r.Header[hop.HeaderOrder]) == 1 && h.c.Orders != nil {
		h.order(w, r, node)
		return
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
	h.event(t, Event{Kind: EventBounce, Bounce: b, Load: l})
	hd := w.Header()
	hd[hop.HeaderBounce] = []string{b.String()}
	if l != (balance.Load{}) {
		setLoad(hd, l)
	}
	if b == balance.BounceNotHere || b == balance.BounceNotStarted || b == balance.BounceClosing {
		if ms := h.ready(t); ms != nil {
			hd[hop.HeaderElse] = []string{string(hop.AppendElse(nil, ms))}
		}
	}
	hd["Content-Length"] = noLength
	w.WriteHeader(http.StatusServiceUnavailable)
}

// ready returns other machines of the app that are ready as far as this node knows, some of them:
// an edge that has not heard of them is late.
func (h *Handler) ready(t hop.To) (ms []balance.Machine) {
	rows, ok := h.fleet.App(t.App)
	if !ok {
		return nil
	}
	for m := range rows.All() {
		if m.State != balance.StateStarted || m.Cordon != balance.CordonNone || m.ID == t.Machine ||
			h.draining.Load() && m.Owner == h.fleet.Node() {
			continue
		}
		if ms = append(ms, *m); len(ms) == hop.ElseMax {
			break
		}
	}
	return ms
}

// event tells of a request.
func (h *Handler) event(t hop.To, e Event) {
	if h.c.Trace.Event != nil {
		e.App, e.Machine, e.Node = t.App, t.Machine, t.Node
		h.c.Trace.Event(e)
	}
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

// deny refuses whoever does not belong here. A body that never comes is not waited for: net/http
// would.
func deny(w http.ResponseWriter, status int, words string) {
	// not every server can
	http.NewResponseController(w).SetReadDeadline(time.Now().Add(auth.LingerFor)) //nolint:errcheck
	w.Header().Set("Connection", "close")
	fault(w, status, FailureDenied, words)
}
