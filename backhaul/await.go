package backhaul

import (
	"context"
	"net/http"
	"runtime"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/pool"
	"github.com/ebbkit/ebb/backhaul/internal/tcp"
	"github.com/ebbkit/ebb/balance"
)

// ahead reads a small body before a machine is asked for: a client that is slow to send it holds no
// slot.
func (f *flight) ahead() error {
	s, n := f.body, f.req.ContentLength
	if s == nil || n <= 0 || n > int64(f.t.c.ReplayLimit) {
		return nil
	}
	f.outcome = balance.OutcomeCanceled
	read := make(chan error, 1)
	go func() { read <- s.Ahead(int(n), f.t.reserve) }() // which nothing but its client can wake
	runtime.Gosched()
	select {
	case err := <-read: // it had come with the head, as most do
		return f.came(err)
	default:
	}
	stalled := make(chan struct{})
	p := &pool.Progress{Bounds: f.t.bounds(f.want.App), Body: s}
	p.Stalled = func(Stall) { close(stalled) }
	f.t.sweeper.Add(p)
	defer f.t.sweeper.Remove(p)
	select {
	case err := <-read:
		return f.came(err)
	case <-stalled:
		return &StallError{f.want.App, StallBody, p.Bounds.Body}
	case <-f.req.Context().Done():
		return context.Cause(f.req.Context())
	}
}

func (f *flight) came(err error) error {
	if err != nil {
		return &pool.BodyError{Err: err}
	}
	if f.body.Whole() {
		f.want.Held = f.body.Held()
	}
	return nil
}

// watch has what may stall looked at: the rest of a body, which a try sends as it comes.
func (f *flight) watch() {
	if f.body == nil || f.body.Whole() {
		return
	}
	p := f.watched()
	p.Body = f.body
	p.Talks.Store(hop.IsGRPC(hop.MediaType(f.req.Header)))
	f.cancelable()
	f.t.sweeper.Add(p)
}

// watchAnswer has an answer looked at that is not here as a whole.
func (f *flight) watchAnswer() {
	p := f.watched()
	if f.req.ContentLength <= 0 {
		p.Talks.Store(true) // perhaps both speak now: silence is the app's business
	}
	f.t.sweeper.Add(p)
}

func (f *flight) watched() *pool.Progress {
	if f.progress == nil {
		f.progress = &pool.Progress{Bounds: f.t.bounds(f.want.App), Stalled: f.stalled}
	}
	return f.progress
}

// cancelable makes the tries' context one that can be ended with a reason.
func (f *flight) cancelable() {
	if f.cancel == nil {
		f.ctx, f.cancel = context.WithCancelCause(f.ctx)
	}
}

// stalled ends the request. It comes from the sweeper, at any time.
func (f *flight) stalled(s Stall) {
	after := f.progress.Bounds.Body
	if s == hop.StallAnswer {
		after = f.progress.Bounds.Answer
	}
	f.end(&StallError{f.want.App, s, after})
}

func (f *flight) end(err *StallError) {
	f.stall.Store(err)
	if f.cancel != nil {
		f.cancel(err)
	}
	f.ended()
}

// ended ends a request that has stalled after its answer was handed out. Before, RoundTrip does.
func (f *flight) ended() {
	if err := f.stall.Load(); err != nil && f.handed.Load() {
		f.finish(balance.OutcomeCanceled, err)
	}
}

// stallOf returns the reason where that is what err comes from.
func (f *flight) stallOf(err error) error {
	if s := f.stall.Load(); s != nil && err != nil {
		return s
	}
	return err
}

// watchUpgrade bounds the wait for the answer to a request for an upgrade. What it returns ends
// that.
func (f *flight) watchUpgrade() (stop func()) {
	if !upgrades(f.req) {
		return func() {}
	}
	bound := f.t.bounds(f.want.App).Upgrade
	if bound == 0 {
		return func() {}
	}
	f.cancelable()
	t := time.AfterFunc(bound, func() { f.end(&StallError{f.want.App, StallUpgrade, bound}) })
	return func() { t.Stop() }
}

// hand notes that an answer is handed out.
func (f *flight) hand(resp *http.Response) {
	switch {
	case resp.StatusCode == http.StatusSwitchingProtocols:
		if f.progress != nil {
			f.t.sweeper.Remove(f.progress)
		}
	case resp.ContentLength < 0 || resp.ContentLength > tcp.BufferSize:
		f.watchAnswer()
	}
	f.turn()
	f.handed.Store(true)
	f.ended()
}

// turn passes the turn between the client, which is to read an answer, and the machine.
func (f *flight) turn() {
	if f.progress != nil {
		f.progress.Answer.Pass()
	}
}

// stalledThere is what has stalled by its owner's word, which gives more time than we do: what we
// wait for is here, and late.
func (f *flight) stalledThere(status int) *StallError {
	b := f.t.bounds(f.want.App)
	if status == http.StatusRequestTimeout {
		return &StallError{f.want.App, StallBody, b.Body}
	}
	return &StallError{f.want.App, StallUpgrade, b.Upgrade}
}
