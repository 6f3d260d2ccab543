package backhaul

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"sync"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/longconn"
	"github.com/ebbkit/ebb/backhaul/internal/pool"
	"github.com/ebbkit/ebb/balance"
)

// forward sends an admitted request to its machine and passes the answer back.
func (h *Handler) forward(
	w http.ResponseWriter, r *http.Request, t hop.To, m *balance.Machine, gate *balance.Gate,
	epoch uint64,
) {
	x := pool.Exchange{
		Used: pool.Used{Pool: h.machines}, Peer: pool.Peer{Name: pool.MachineName(m), Epoch: epoch},
	}
	place := slot{h: h, to: t, gate: gate, epoch: epoch, began: time.Now(), ends: r.ProtoMajor == 1}
	defer func() { place.leave(x.Used) }()
	x.Dial = func(ctx context.Context) (net.Conn, error) { return h.c.DialMachine(ctx, *m) }
	var body *longconn.GRPCBody
	if r.ContentLength != 0 {
		x.Body = pool.NewBody(r, &h.kept)
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
	served := h.watch(w, r, t.App, x.Body)
	defer func() { served.close() }()
	ctx := r.Context()
	if served != nil {
		ctx = served.ctx
	}
	out := outbound(ctx, r, m, early)
	x.H2 = h.c.H2 != nil && h.c.H2(*m) && out.Header["Upgrade"] == nil
	keepTarget(out, x.H2)
	x.Finish = x.H2 && h.apps.row(t.App).FinishAbandoned
	hop.SetEpoch(out.Header, h.c.EpochHeader, epoch)
	if x.Body != nil {
		x.Body.Retain(reopenable(r.ContentLength, x.H2))
		defer x.Body.Release()
		x.Once = x.H2 && !x.Body.Covers(r.ContentLength) && (r.ContentLength > 0 || r.ProtoMajor == 1)
	}
	resp, fail, err := x.Do(out)
	served.answered()
	early.close()
	if stall := served.stalledBy(); stall != nil && err != nil {
		h.stalled(w, r, t, stall)
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

// pass passes an answer back, or the connection that it becomes.
func (h *Handler) pass(w http.ResponseWriter, resp *http.Response, p *slot, x *pool.Exchange,
	s *ownerWatch, l longconn.Watched) error {
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

// outbound returns the request that a machine gets.
func outbound(
	ctx context.Context, r *http.Request, m *balance.Machine, early *earlyHints,
) *http.Request {
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got1xxResponse: early.got})
	out := r.WithContext(ctx)
	u := *r.URL
	u.Scheme, u.Host = "http", string(m.ID) // never dialled: the connection is there
	out.URL = &u
	out.Header = make(http.Header, len(r.Header)+1)
	upgrade := ""
	if v := r.Header["Upgrade"]; len(v) > 0 && hop.HasToken(r.Header["Connection"], "upgrade") {
		upgrade = hop.WithoutHTTP(v)
	}
	hop.CopyHeader(out.Header, r.Header, nil)
	delete(out.Header, "Expect") // between edge and owner only
	delete(out.Header, hop.HeaderHTTP2Settings)
	if upgrade != "" {
		out.Header["Connection"] = []string{"Upgrade"}
		out.Header["Upgrade"] = []string{upgrade}
	}
	if hop.HasToken(r.Header["Te"], "trailers") {
		out.Header["Te"] = []string{"trailers"}
	}
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = noAgent // else net/http names itself
	}
	out.RequestURI = ""
	out.Close = false
	out.Body, out.Trailer = nil, nil
	out.TransferEncoding = nil
	return out
}

var noAgent = []string{""}

// slot is a request's slot at a machine.
type slot struct {
	h     *Handler
	to    hop.To
	gate  *balance.Gate
	epoch uint64
	began time.Time
	ends  bool // for the edge an answer ends with its last byte: over HTTP/2 trailers may follow
	took  workTime
	freed bool
}

// workTime is how long a machine has worked on a request; the zero value says nothing.
type workTime struct {
	d     time.Duration
	known bool
	ends  bool // it works until the end of the answer
	lasts bool // the slot is held until the handler returns
}

// answered notes the head of an answer. If its length is known, the work is done; the rest takes as
// long as the client does.
func (p *slot) answered(resp *http.Response, long bool) {
	switch {
	case long || resp.StatusCode == http.StatusSwitchingProtocols:
		p.took.lasts = true
	case resp.ContentLength >= 0:
		p.took = workTime{d: time.Since(p.began), known: true}
	default:
		p.took.ends = true
	}
}

// free frees the slot of a request whose whole answer has been read, before the edge can know.
func (p *slot) free() {
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
func (p *slot) leave(u pool.Used) {
	h := p.h
	if !u.Release() {
		p.took.lasts = false
		p.free()
		return
	}
	h.active.Add(1)
	freed := p.freed // then it lingers without a slot: a stream that has not ended with its answer
	l := &pool.Lingering{
		Gate: p.gate, Epoch: p.epoch, App: h.apps.row(p.to.App), Sent: u.Sent(), Began: p.began,
		Times: &h.services,
		Free: func() {
			if !freed {
				p.gate.Leave()
			}
			h.finished()
		},
	}
	if h.c.Trace.Event != nil && !freed {
		l.Hook = func(freed Freed, held time.Duration) {
			h.event(p.to, Event{Kind: EventFree, Freed: freed, Took: held})
		}
	}
	l.Start(u)
}

// How much of a body is kept so that the request can be sent over another connection: over HTTP/2
// the protocol's default window, which a peer takes before it says anything; over HTTP/1.1 what is
// read before anything is written.
const (
	keptForStream = 64 << 10
	keptForWrite  = 4 << 10
)

// reopenable returns how much is kept of a body of that length; 0 or negative means unknown.
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

// awaited reports whether the edge waits to be asked for the body.
func awaited(r *http.Request) bool {
	v := r.Header[hop.HeaderAsk]
	return r.Header["Expect"] != nil || len(v) == 1 && v[0] == askBody[0]
}

// stalled answers a request that its edge should have ended.
func (h *Handler) stalled(
	w http.ResponseWriter, r *http.Request, t hop.To, err *stallError,
) {
	h.event(t, Event{Kind: EventFail, Failure: hop.FailureClient, Err: err})
	if r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close") // the rest of the body is on its way, or never comes
	}
	fault(w, err.StatusCode(), hop.FailureClient, err.Error())
}

// failed answers a request that its machine did not answer.
func (h *Handler) failed(
	w http.ResponseWriter, r *http.Request, t hop.To, gate *balance.Gate, epoch uint64, fail Failure,
	err error,
) {
	if errors.Is(r.Context().Err(), context.Canceled) || fail == hop.FailureClient {
		panic(http.ErrAbortHandler) // the edge has left, or its body has broken off: nobody to tell
	}
	suspect(gate, epoch, fail, err)
	h.event(t, Event{Kind: EventFail, Failure: fail, Err: err})
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
