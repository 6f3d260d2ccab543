package backhaul

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/pool"
	"github.com/ebbkit/ebb/backhaul/internal/tcp"
	"github.com/ebbkit/ebb/balance"
)

// stallWatch ends a request in which nothing moves for too long.
type stallWatch struct {
	q        *roundTrip
	ctx      context.Context // of the tries
	cancel   context.CancelCauseFunc
	progress *pool.Progress             // nil: nothing can stall
	stall    atomic.Pointer[stallError] // why it was ended
	handed   atomic.Bool                // the answer has been handed out
}

// begin watches the rest of a body, which a try sends as it comes.
func (w *stallWatch) begin() {
	if w.q.body == nil || w.q.body.Whole() {
		return
	}
	p := w.watched()
	p.Body = w.q.body
	p.Talks.Store(hop.IsGRPC(hop.MediaType(w.q.req.Header)))
	w.cancelable()
	w.q.t.sweeper.Add(p)
}

// answer watches an answer that has not come as a whole.
func (w *stallWatch) answer() {
	p := w.watched()
	if w.q.req.ContentLength <= 0 {
		p.Talks.Store(true) // perhaps both speak now: silence is the app's business
	}
	w.q.t.sweeper.Add(p)
}

func (w *stallWatch) watched() *pool.Progress {
	if w.progress == nil {
		w.progress = &pool.Progress{Bounds: w.q.t.apps.bounds(w.q.want.App), Stalled: w.stalled}
	}
	return w.progress
}

// cancelable lets the context of the tries be ended with a reason.
func (w *stallWatch) cancelable() {
	if w.cancel == nil {
		w.ctx, w.cancel = context.WithCancelCause(w.ctx)
	}
}

// stalled ends the request. The sweeper calls it, at any time.
func (w *stallWatch) stalled(s hop.Stall) {
	w.end(&stallError{w.q.want.App, s, w.progress.Bounds.Of(s)})
}

func (w *stallWatch) end(err *stallError) {
	w.stall.Store(err)
	if w.cancel != nil {
		w.cancel(err)
	}
	w.over()
}

// over ends a request that has stalled after its answer was handed out. Before that, RoundTrip ends
// it.
func (w *stallWatch) over() {
	if err := w.stall.Load(); err != nil && w.handed.Load() {
		w.q.finish(balance.OutcomeCanceled, err)
	}
}

// reason returns why the request was ended here, if it was, else err.
func (w *stallWatch) reason(err error) error {
	if s := w.stall.Load(); s != nil && err != nil {
		return s
	}
	return err
}

// upgrade bounds the wait for the answer to a request for an upgrade, until stop is called.
func (w *stallWatch) upgrade() (stop func()) {
	if !upgrades(w.q.req) {
		return func() {}
	}
	bound := w.q.t.apps.bounds(w.q.want.App).Upgrade
	if bound == 0 {
		return func() {}
	}
	w.cancelable()
	t := time.AfterFunc(bound, func() { w.end(&stallError{w.q.want.App, hop.StallUpgrade, bound}) })
	return func() { t.Stop() }
}

// hand notes that an answer is handed out.
func (w *stallWatch) hand(resp *http.Response) {
	switch {
	case resp.StatusCode == http.StatusSwitchingProtocols:
		if w.progress != nil {
			w.q.t.sweeper.Remove(w.progress)
		}
	case resp.ContentLength < 0 || resp.ContentLength > tcp.BufferSize:
		w.answer()
	}
	w.turn()
	w.handed.Store(true)
	w.over()
}

// turn passes the turn between the client, which is to read an answer, and the machine.
func (w *stallWatch) turn() {
	if w.progress != nil {
		w.progress.Answer.Pass()
	}
}

// there returns what has stalled at the owner, which says so by a status. The owner allows more
// time than this node, so what was awaited is here by now, and late.
func (w *stallWatch) there(status int) *stallError {
	what := hop.StallUpgrade
	if status == http.StatusRequestTimeout {
		what = hop.StallBody
	}
	return &stallError{w.q.want.App, what, w.q.t.apps.bounds(w.q.want.App).Of(what)}
}

// ownerWatch ends a request of a [Handler] that stalls and that its edge should have ended. Its
// bounds are the owner's.
type ownerWatch struct {
	pool.Progress
	h   *Handler
	w   http.ResponseWriter
	r   *http.Request
	app balance.AppID

	ctx    context.Context // of the machine's request
	cancel context.CancelCauseFunc
	stall  atomic.Pointer[stallError]
	timer  *time.Timer // of an upgrade
}

// watch returns nil for a request without a body that asks for no upgrade.
func (h *Handler) watch(
	w http.ResponseWriter, r *http.Request, app balance.AppID, body *pool.Body,
) *ownerWatch {
	upgrade := upgrades(r)
	if body == nil && !upgrade {
		return nil
	}
	s := h.newWatch(w, r, app)
	s.ctx, s.cancel = context.WithCancelCause(r.Context())
	if body != nil {
		s.Body = body
		s.Talks.Store(hop.IsGRPC(hop.MediaType(r.Header)))
		h.sweeper.Add(&s.Progress)
	}
	if upgrade && s.Bounds.Upgrade > 0 {
		s.timer = time.AfterFunc(s.Bounds.Upgrade, func() {
			s.end(&stallError{app, hop.StallUpgrade, s.Bounds.Upgrade})
		})
	}
	return s
}

func (h *Handler) newWatch(w http.ResponseWriter, r *http.Request, app balance.AppID) *ownerWatch {
	s := &ownerWatch{h: h, w: w, r: r, app: app}
	s.Bounds = h.apps.bounds(app).Owners()
	s.Stalled = func(what hop.Stall) { s.end(&stallError{app, what, s.Bounds.Of(what)}) }
	return s
}

// answering watches an answer that may not fit into buffers. s may be nil.
func (s *ownerWatch) answering(
	h *Handler, w http.ResponseWriter, r *http.Request, app balance.AppID, resp *http.Response,
) *ownerWatch {
	if resp.ContentLength >= 0 && resp.ContentLength <= tcp.BufferSize {
		return s
	}
	if s == nil {
		s = h.newWatch(w, r, app)
	}
	if r.ContentLength <= 0 {
		s.Talks.Store(true)
	}
	h.sweeper.Add(&s.Progress)
	return s
}

// turn passes the turn between the edge, which is to take the answer, and the machine.
func (s *ownerWatch) turn() {
	if s != nil {
		s.Answer.Pass()
	}
}

// end ends the request, wherever it waits.
func (s *ownerWatch) end(err *stallError) {
	s.stall.Store(err)
	c := http.NewResponseController(s.w)
	switch err.stall {
	case hop.StallAnswer:
		c.SetWriteDeadline(time.Unix(1, 0)) //nolint:errcheck // both servers of net/http can
	case hop.StallBody:
		c.SetReadDeadline(time.Unix(1, 0)) //nolint:errcheck
	}
	if s.cancel != nil {
		s.cancel(err)
	}
}

// stop ends the watch, when the request is over or has become a connection.
func (s *ownerWatch) stop() {
	if s == nil {
		return
	}
	s.h.sweeper.Remove(&s.Progress)
	if s.timer != nil {
		s.timer.Stop()
	}
}

func (s *ownerWatch) close() {
	if s == nil {
		return
	}
	s.stop()
	if s.cancel != nil {
		s.cancel(pool.ErrStreamOver)
	}
}

// answered notes the machine's answer.
func (s *ownerWatch) answered() {
	if s != nil && s.timer != nil {
		s.timer.Stop()
	}
}

// stalledBy returns why the request was ended here, or nil.
func (s *ownerWatch) stalledBy() *stallError {
	if s == nil {
		return nil
	}
	return s.stall.Load()
}

// upgrades reports whether a request asks for an upgrade.
func upgrades(r *http.Request) bool {
	v := r.Header["Upgrade"]
	return len(v) > 0 && hop.HasToken(r.Header["Connection"], "upgrade")
}

// stallError says that a request was ended because nothing had moved for as long as its app allows.
// It is no fault of the machine. A body that stalls becomes 408, an upgrade 504; an answer that
// nobody reads just breaks off.
type stallError struct {
	app   balance.AppID
	stall hop.Stall
	after time.Duration // the bound that has passed
}

// Error says what did not move.
func (e *stallError) Error() string {
	what := "the client sent nothing of the request's body, or next to nothing,"
	switch e.stall {
	case hop.StallAnswer:
		what = "the client read nothing of the answer"
	case hop.StallUpgrade:
		what = "the machine did not answer the request for an upgrade"
	}
	return fmt.Sprintf("backhaul: app %q: %s for %v", e.app, what, e.after)
}

// StatusCode returns what the client is answered; 0 when it has been answered already.
func (e *stallError) StatusCode() int {
	switch e.stall {
	case hop.StallBody:
		return http.StatusRequestTimeout
	case hop.StallUpgrade:
		return http.StatusGatewayTimeout
	}
	return 0
}

// Cause returns the cause in one word.
func (e *stallError) Cause() string {
	if e.stall == hop.StallUpgrade {
		return causeTimeout
	}
	return causeStalled
}
