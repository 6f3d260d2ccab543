package backhaul

import (
	"cmp"
	"context"
	"io"
	"net"
	"net/http"
	"sync/atomic"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/longconn"
	"github.com/ebbkit/ebb/backhaul/internal/pool"
	"github.com/ebbkit/ebb/backhaul/internal/tcp"
	"github.com/ebbkit/ebb/balance"
)

// answer is the body of an answer; its end ends the request.
type answer struct {
	q    *roundTrip
	resp *http.Response
	body io.ReadCloser
}

// wrapAnswer makes the end of the answer the end of the request. An answer without a body has ended
// already.
func wrapAnswer(q *roundTrip, resp *http.Response) {
	resp.Request = q.req
	hop.StripInternal(resp.Trailer)
	if resp.Body == http.NoBody {
		q.finish(q.answerOutcome(), nil)
		return
	}
	if q.try.early && resp.ContentLength == 0 {
		q.try.free()
	}
	defer q.watch.hand(resp)
	a := answer{q, resp, resp.Body}
	if rw, ok := resp.Body.(io.ReadWriteCloser); ok &&
		resp.StatusCode == http.StatusSwitchingProtocols {
		resp.Body = &duplex{
			answer: a, rw: rw, half: longconn.HalfOf(resp.Body, q.try.used.Conn), wire: q.try.used.Conn.Wire,
		}
		return
	}
	resp.Body = &a
}

func (a *answer) Read(p []byte) (int, error) {
	a.q.watch.turn()
	n, err := a.body.Read(p)
	a.q.watch.turn()
	got := a.q.traffic.received.Add(int64(n))
	if err == nil && a.q.try.early && got == a.resp.ContentLength {
		a.q.try.free()
	}
	if err == io.EOF {
		hop.StripInternal(a.resp.Trailer) // it has come now
		a.end()
	} else if err != nil {
		err = a.q.watch.reason(err)
		a.q.finish(a.q.brokenOff(), err)
	}
	return n, err
}

// end ends the request with its whole answer.
func (a *answer) end() {
	o := balance.OutcomeError
	defer func() { a.q.finish(o, nil) }() // also when Failed panics
	if q := a.q; !q.try.sick && len(a.resp.Trailer) > 0 {
		q.try.sick = q.t.c.Failed(0, a.resp.Trailer)
	}
	o = a.q.answerOutcome()
}

// Close ends the request, wherever its answer stands.
func (a *answer) Close() error {
	err := a.body.Close()
	o := a.q.answerOutcome() // the machine answered; not to read it all is the client's right
	if o == balance.OutcomeDone && a.q.req.Context().Err() != nil {
		o = balance.OutcomeCanceled
	}
	a.q.finish(o, nil)
	return err
}

// duplex is what a 101 answer turns into: a connection. The request lasts until it is closed, or
// breaks.
//
// The reason for its end is noted before anything is closed. Closing wakes the copy in the other
// direction, and a proxy then closes both connections as if they had ended well.
type duplex struct {
	answer
	rw       io.ReadWriteCloser
	half     tcp.Halver
	wire     *pool.Wire
	broken   atomic.Pointer[error] // what the machine broke with; nil: it did not
	left     atomic.Pointer[error] // what the client broke with
	notified atomic.Bool           // we have ended it, and both sides know
	used     atomic.Bool           // somebody has read or written
	over     atomic.Bool           // what the machine says has ended
	ended    atomic.Bool           // what the client gets
}

func (d *duplex) Read(p []byte) (int, error) {
	d.used.Store(true)
	n, err := d.rw.Read(p)
	d.q.traffic.received.Add(int64(n))
	if err == io.EOF {
		d.over.Store(true)
	}
	d.note(err)
	return n, err
}

func (d *duplex) Write(p []byte) (int, error) {
	d.used.Store(true)
	n, err := d.rw.Write(p)
	d.q.traffic.sent.Add(int64(n))
	d.note(err)
	return n, err
}

func (d *duplex) note(err error) {
	if err != nil && err != io.EOF && err != longconn.ErrNotified && !tcp.IsClosedHere(err) {
		d.broken.CompareAndSwap(nil, &err)
	}
}

// WriteTo spares [io.Copy] its large buffers. As a proxy closes both connections in the same way
// however one of them ended, it also resets the client's where the machine's broke.
func (d *duplex) WriteTo(w io.Writer) (int64, error) {
	n, err := tcp.Relay(w, onlyReader{d})
	d.ended.Store(err == nil)
	d.copied(w, err)
	return n, err
}

// ReadFrom is WriteTo in the other direction.
func (d *duplex) ReadFrom(r io.Reader) (int64, error) {
	n, err := tcp.Relay(onlyWriter{d}, r)
	if err == nil {
		err = tcp.EndOf(r, d.ended.Load())
	}
	d.copied(r, err)
	return n, err
}

// copied is called when the copying from or to the client has ended.
func (d *duplex) copied(client any, err error) {
	switch {
	case err == nil:
		return
	case err == longconn.ErrNotified:
		d.notified.Store(true)
		d.Close()
		return
	case tcp.IsClosedHere(err):
		if d.broke() == nil {
			return
		}
	case d.broken.Load() == nil:
		d.left.CompareAndSwap(nil, &err)
	}
	if c, ok := client.(net.Conn); ok {
		tcp.Reset(c)
	}
	d.Close()
}

// broke returns what one of the sides broke with, or nil.
func (d *duplex) broke() *error { return cmp.Or(d.broken.Load(), d.left.Load()) }

// Close ends both directions. It resets the connection if a side broke, if nobody has used it, or
// if it had not ended when the request's context did.
func (d *duplex) Close() error {
	if err := context.Cause(d.q.req.Context()); err != nil && !d.notified.Load() &&
		!(d.over.Load() && d.wire.Ended.Load()) {
		d.left.CompareAndSwap(nil, &err)
	}
	if d.broke() != nil || !d.used.Load() {
		d.wire.Abort()
	}
	switch broken, left := d.broken.Load(), d.left.Load(); {
	case broken != nil:
		d.q.finish(d.q.brokenOff(), *broken)
	case left != nil:
		d.q.finish(balance.OutcomeCanceled, *left)
	}
	return d.answer.Close()
}

type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)

// CloseWrite passes on that one side has nothing more to say.
func (d *duplex) CloseWrite() error { return d.half.CloseWrite() }

// discard reads the small body that a bounce may have, so that its connection can be used again.
func discard(resp *http.Response) {
	io.CopyN(io.Discard, resp.Body, 4<<10)
	resp.Body.Close()
}
