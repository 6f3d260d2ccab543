package backhaul

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"syscall"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/pool"
	"github.com/ebbkit/ebb/balance"
)

// passing1xx is a context whose trace gets the 1xx answers of machines without the headers of the hop, and no "100
// Continue" where that is the hop's own.
func passing1xx(ctx context.Context, hide100 bool) context.Context {
	outer := httptrace.ContextClientTrace(ctx)
	if outer == nil || outer.Got1xxResponse == nil {
		return ctx
	}
	inner := *outer
	inner.Got1xxResponse = func(code int, h textproto.MIMEHeader) error {
		if hide100 && code == http.StatusContinue {
			return nil
		}
		hop.StripInternal(http.Header(h))
		return outer.Got1xxResponse(code, h)
	}
	if hide100 {
		inner.Got100Continue = nil
	}
	return httptrace.WithClientTrace(untraced{ctx}, &inner)
}

// untraced is a context without a trace, which would be called beside the one that takes its place.
type untraced struct{ context.Context }

func (u untraced) Value(key any) any {
	v := u.Context.Value(key)
	if _, ok := v.(*httptrace.ClientTrace); ok {
		return nil
	}
	return v
}

// suspect tells whoever starts the machine that nothing listens at its address: there it is looked
// at, and restarted if it has to be.
func suspect(g *balance.Gate, epoch uint64, f Failure, err error) {
	if f == hop.FailureDial && errors.Is(err, syscall.ECONNREFUSED) {
		g.Suspect(epoch)
	}
}

// keepTarget has net/http send a request's target and Host as they came, where it would write them in its own way. The
// URL of out is replaced, not changed: others may have it.
//
// net/http writes a path that has bytes which a URL may not have ("|", raw UTF-8) anew from its decoded form, and so turns
// %2F into a slash. It keeps what it was given as Opaque.
//
// An empty Host it fills in with the URL's, which is our own name for what the request is for. Over HTTP/1.1 it writes an
// empty one where the URL's cannot be a Host; over HTTP/2 it has no way to, and the app gets a name that nobody has.
func keepTarget(out *http.Request, h2 bool) {
	opaque, raw := hop.ExactPath(out.URL)
	if opaque == "" && raw == out.URL.RawPath && out.Host != "" {
		return
	}
	u := *out.URL
	u.Opaque, u.RawPath = opaque, raw
	switch {
	case out.Host != "":
	case h2:
		u.Host = "invalid" // RFC 6761, 6.4
	default:
		u.Host = "/"
	}
	out.URL = &u
}

// lane chooses between the connections for bulk and the others.
func (f *flight) lane() hop.Lane {
	if f.route == 0 {
		f.route = pool.RouteOf(f.want.App, f.req.Method, f.req.URL.Path)
	}
	return hop.LaneOf(f.req.ContentLength, f.t.routes.Last(f.route), f.start)
}

// machineError describes a failed try.
func (f *flight) machineError(fail Failure, err error) error {
	if _, ok := errors.AsType[*pool.BodyError](err); ok || fail == hop.FailureClient {
		return err
	}
	return &MachineError{App: f.want.App, Machine: f.try.Machine, Owner: f.try.Owner, Failure: fail, Tries: f.try.N, Err: err}
}

// local enters the gate of a machine of this process and sends the request to the machine.
func (f *flight) local(g *balance.Gate, x *pool.Exchange) (*http.Response, balance.Bounce, balance.Load, Failure, error) {
	m := f.res.Machine()
	slot, _ := f.res.GrantToken()
	load, bounce := g.Enter(slot, m.Epoch, m.CordonGen)
	if bounce != balance.BounceNone {
		f.res.Observe(load)
		return nil, bounce, load, FailureNone, nil
	}
	f.gate, f.epoch = g, load.Epoch
	x.Pool, x.Name, x.Epoch = f.t.machines, pool.MachineName(m), load.Epoch
	x.Dial = func(ctx context.Context) (net.Conn, error) { return f.t.c.DialMachine(ctx, *m) }
	out := f.outgoing(passing1xx(f.ctx, false))
	x.H2 = f.t.c.H2 != nil && f.t.c.H2(*m) && out.Header["Upgrade"] == nil
	keepTarget(out, x.H2)
	x.Finish = x.H2 && f.t.app(m.App).Abandoned == balance.AbandonedFinish
	hop.SetEpoch(out.Header, f.t.c.EpochHeader, load.Epoch)
	if x.H2 && f.body != nil {
		f.body.Retain(reopenable(f.req.ContentLength, true), &f.t.kept, f.t.c.replayMemory)
		x.Once = !f.body.Covers(f.req.ContentLength) && (f.req.ContentLength > 0 || f.req.ProtoMajor == 1)
	}
	resp, fail, err := x.Do(out)
	if err != nil {
		suspect(g, load.Epoch, fail, err)
		return nil, balance.BounceNone, load, fail, f.machineError(fail, err)
	}
	hop.StripInternal(resp.Header)
	f.long = f.t.c.Connections.watch(m.App, m.ID, f.req, resp, x, f.spigot)
	return resp, balance.BounceNone, load, FailureNone, nil
}

// remote sends the request to the machine's owner.
func (f *flight) remote(x *pool.Exchange) (*http.Response, balance.Bounce, balance.Load, Failure, error) {
	t, m := f.t, f.res.Machine()
	owner := m.Owner
	if t.c.Dial == nil {
		err := fmt.Errorf("backhaul: node %q owns the machine and Config.Dial is nil: set it to reach other nodes", owner)
		return nil, balance.BounceNone, balance.Load{}, FailureDial, f.machineError(FailureDial, err)
	}
	x.Pool, x.Name, x.Epoch = t.owners, pool.OwnerName(owner), f.res.Incarnation()
	x.Dial = func(ctx context.Context) (net.Conn, error) { return t.c.Dial(ctx, owner) }
	x.Patience = t.c.admitTimeout
	if x.H2 = t.h2(f.req); x.H2 {
		x.Lane = f.lane()
		x.Ask = f.body != nil && f.req.ContentLength <= 0
	}
	if t.c.RTT != nil {
		x.RTT, x.RTTKnown = t.c.RTT(owner)
	}
	x.Expect = f.body != nil && !x.Ask && !f.body.Covers(f.req.ContentLength)
	ctx := f.ctx
	if x.Expect || x.Ask {
		ctx = passing1xx(ctx, true) // it answers the Expect of the hop and not one of the client's
	}
	out := f.outgoing(ctx)
	keepTarget(out, x.H2)
	slot, _ := f.res.GrantToken()
	out.Header[hop.HeaderTo] = []string{string(hop.AppendTo(make([]byte, 0, 64), hop.To{App: m.App, Machine: m.ID, CordonGen: m.CordonGen, Node: t.c.Node, Token: slot}))}
	if x.Expect {
		out.Header["Expect"] = expectContinue
		if x.H2 {
			out.Header[hop.HeaderAsk] = askBody // an HTTP/2 server hides the Expect from its handler
		}
	}
	if x.Ask {
		out.Header[hop.HeaderAsk] = askWord
		x.Admitted = f.admitted
	}
	resp, fail, err := x.Do(out)
	if err != nil {
		return nil, balance.BounceNone, balance.Load{}, fail, f.machineError(fail, err)
	}
	load, ok := balance.Load{}, false
	if v := resp.Header[hop.HeaderLoad]; len(v) > 0 {
		if load, ok = hop.ParseLoad(v[0]); ok {
			f.res.Observe(load)
		}
	}
	if v := resp.Header[hop.HeaderBounce]; len(v) > 0 {
		discard(resp)
		return nil, hop.ParseBounce(v[0]), load, FailureNone, nil
	}
	if v := resp.Header[hop.HeaderFault]; len(v) > 0 {
		discard(resp)
		fail, words := hop.ParseFault(v[0])
		if fail == hop.FailureClient {
			return nil, balance.BounceNone, load, fail, f.stalledThere(resp.StatusCode)
		}
		return nil, balance.BounceNone, load, fail, f.machineError(fail, &ownerError{owner, words})
	}
	hop.StripInternal(resp.Header)
	return resp, balance.BounceNone, load, FailureNone, nil
}

var (
	expectContinue = []string{"100-continue"}
	askBody        = []string{"body"}
	askWord        = []string{"word"}
)

// admitted is called when an owner has let a body of unknown length in: where the request may not be executed twice, what
// was kept of the body is of no use any more. It must not block, as it is called on the goroutine that reads a connection.
func (f *flight) admitted() {
	if !f.t.c.Idempotent(f.req) {
		f.body.ForgetRest()
		f.t.kept.Add(-f.body.Unreserve())
	}
}

// outgoing is the request of one try: each has its own, as the last one's body may still be on its way.
func (f *flight) outgoing(ctx context.Context) *http.Request {
	out := f.req.WithContext(ctx)
	h := make(http.Header, len(f.req.Header)+3)
	for k, v := range f.req.Header {
		if !hop.IsInternal(k) && k != "Expect" {
			h[k] = v
		}
	}
	hop.KeepHTTP(h)
	if f.made {
		h[headerTrace] = []string{f.trace}
	}
	out.Header = h
	out.GetBody = nil
	out.Close = false
	//lint:ignore SA1019 it is cleared because it is deprecated: the context rules on the hop
	out.Cancel = nil
	out.Body, out.Trailer = nil, nil
	switch {
	case f.body == nil:
		out.ContentLength = 0
	case out.ContentLength == 0:
		out.ContentLength = -1 // a body of unknown length
	}
	return out
}
