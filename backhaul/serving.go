package backhaul

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/pool"
	"github.com/ebbkit/ebb/backhaul/internal/tcp"
	"github.com/ebbkit/ebb/balance"
)

// serving is a request of a [Handler] that may stall: what its edge should end, and does not. Its
// bounds are the owner's.
type serving struct {
	pool.Progress
	h   *Handler
	w   http.ResponseWriter
	r   *http.Request
	app balance.AppID

	ctx    context.Context // of the machine's request
	cancel context.CancelCauseFunc
	stall  atomic.Pointer[StallError]
	timer  *time.Timer // of an upgrade
}

// serving returns nil for a request without a body that asks for no upgrade.
func (h *Handler) serving(w http.ResponseWriter, r *http.Request, app balance.AppID, body *pool.Body) *serving {
	upgrade := upgrades(r)
	if body == nil && !upgrade {
		return nil
	}
	s := h.watched(w, r, app)
	s.ctx, s.cancel = context.WithCancelCause(r.Context())
	if body != nil {
		s.Body = body
		s.Talks.Store(hop.IsGRPC(hop.MediaType(r.Header)))
		h.sweeper.Add(&s.Progress)
	}
	if upgrade && s.Bounds.Upgrade > 0 {
		s.timer = time.AfterFunc(s.Bounds.Upgrade, func() {
			s.end(&StallError{app, StallUpgrade, s.Bounds.Upgrade})
		})
	}
	return s
}

func (h *Handler) watched(w http.ResponseWriter, r *http.Request, app balance.AppID) *serving {
	s := &serving{h: h, w: w, r: r, app: app}
	row := h.app(app)
	s.Bounds = hop.BoundsOf(&row).Owners()
	s.Stalled = func(what Stall) {
		after := s.Bounds.Body
		if what == hop.StallAnswer {
			after = s.Bounds.Answer
		}
		s.end(&StallError{app, what, after})
	}
	return s
}

// answering has an answer looked at that may not fit into buffers. s may be nil.
func (s *serving) answering(h *Handler, w http.ResponseWriter, r *http.Request, app balance.AppID, resp *http.Response) *serving {
	if resp.ContentLength >= 0 && resp.ContentLength <= tcp.BufferSize {
		return s
	}
	if s == nil {
		s = h.watched(w, r, app)
	}
	if r.ContentLength <= 0 {
		s.Talks.Store(true)
	}
	h.sweeper.Add(&s.Progress)
	return s
}

// turn passes the turn between the edge, which is to take the answer, and the machine.
func (s *serving) turn() {
	if s != nil {
		s.Answer.Pass()
	}
}

// end ends the request, wherever it waits.
func (s *serving) end(err *StallError) {
	s.stall.Store(err)
	c := http.NewResponseController(s.w)
	switch err.Stall {
	case StallAnswer:
		c.SetWriteDeadline(time.Unix(1, 0)) //nolint:errcheck // both servers of net/http can
	case StallBody:
		c.SetReadDeadline(time.Unix(1, 0)) //nolint:errcheck
	}
	if s.cancel != nil {
		s.cancel(err)
	}
}

// stop ends the watch over a request that is over, and over one that has become a connection.
func (s *serving) stop() {
	if s == nil {
		return
	}
	s.h.sweeper.Remove(&s.Progress)
	if s.timer != nil {
		s.timer.Stop()
	}
}

func (s *serving) close() {
	if s == nil {
		return
	}
	s.stop()
	if s.cancel != nil {
		s.cancel(pool.ErrStreamOver)
	}
}

// answered notes the machine's answer.
func (s *serving) answered() {
	if s != nil && s.timer != nil {
		s.timer.Stop()
	}
}

// stalledBy returns why the request was ended here, or nil.
func (s *serving) stalledBy() *StallError {
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
