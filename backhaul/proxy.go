package backhaul

import (
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net/http"
	"net/http/httputil"
	"strings"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/tcp"
	"github.com/ebbkit/ebb/balance"
)

// ProxyConfig configures a [Proxy]. The zero value is valid.
type ProxyConfig struct {
	// App is the app that requests are for. Empty: the one named by their Host, in lower case and
	// without a port. [Config].Route, where set, decides instead.
	App balance.AppID

	// TrustForwarded reports whether a request comes from a proxy of your own. Its X-Forwarded-For
	// then gets the client's address appended, and its Forwarded, X-Forwarded-Host and
	// X-Forwarded-Proto are kept. nil: no request does; the headers say what this proxy saw, and what
	// clients send under these names is dropped.
	TrustForwarded func(*http.Request) bool

	// ErrorHandler answers for requests that could not be served. nil means that of a zero
	// [ErrorHandler].
	ErrorHandler func(http.ResponseWriter, *http.Request, error)
}

// Proxy is an [http.Handler] that has a [Transport] serve requests, and changes nothing on the way
// that it need not:
//
//   - the target and the Host reach the app as the client sent them, and so do the trailers;
//   - an answer without a Content-Type gets none;
//   - answers may go out before the request's body has come, also over HTTP/1.1. If the client
//     sends on after such an answer, the connection is read for up to 30 s, or 5 s after the last
//     byte, so that the client can read the answer; then it is closed;
//   - what the app flushes goes out at once;
//   - an upgraded connection that breaks on one side is reset on the other.
//
// It cannot pass on the reason phrase of a status line, nor the Content-Type and Content-Length of
// a 304 answer, because of net/http. A client that closes its sending side after a request counts
// as gone, as in net/http and nginx: the request ends.
//
// It is safe for concurrent use. Any server will do; [Front] is one with what clients and apps
// need.
type Proxy struct {
	c     ProxyConfig
	proxy httputil.ReverseProxy
}

// NewProxy returns a proxy over t. It starts nothing.
func NewProxy(t *Transport, c ProxyConfig) (*Proxy, error) {
	if t == nil {
		return nil, errors.New("backhaul: NewProxy without a Transport: pass what NewTransport returned")
	}
	if c.ErrorHandler == nil {
		c.ErrorHandler = ErrorHandler{}.ServeError
	}
	p := &Proxy{c: c}
	p.proxy = httputil.ReverseProxy{
		Rewrite: p.rewrite, Transport: t, ErrorHandler: c.ErrorHandler, FlushInterval: -1,
		BufferPool: copyBuffers{}, ErrorLog: stdlog.New(io.Discard, "", 0),
	}
	return p, nil
}

// ServeHTTP serves a request of a client. It panics with [http.ErrAbortHandler] when an answer
// breaks off, as the server expects it.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rw, ok := w.(*reply)
	if !ok || rw.r != r { // not that of a Front
		rw = &reply{ResponseWriter: w, r: r}
	}
	rw.guess = false
	if r.ProtoAtLeast(1, 1) {
		p.serve(rw)
		return
	}
	whole := false
	defer func() {
		if !whole {
			rw.cut()
		}
	}()
	p.serve(rw)
	whole = true
}

func (p *Proxy) serve(w *reply) {
	if w.r.ProtoMajor == 1 && w.r.ContentLength != 0 {
		fullDuplex(w, p.proxy.ServeHTTP)
		return
	}
	p.proxy.ServeHTTP(w, w.r)
}

func (p *Proxy) rewrite(r *httputil.ProxyRequest) {
	Rewrite(r)
	if p.c.App != "" {
		r.Out.URL.Host = string(p.c.App)
	}
	if p.c.TrustForwarded == nil || !p.c.TrustForwarded(r.In) {
		return
	}
	r.Out.Header["X-Forwarded-For"] = r.In.Header["X-Forwarded-For"]
	r.SetXForwarded() // which appends
	for _, k := range []string{"Forwarded", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if v, ok := r.In.Header[k]; ok {
			r.Out.Header[k] = v
		}
	}
}

// Rewrite is a [httputil.ReverseProxy].Rewrite, or the first call in one of your own: it restores
// the request that the client sent from what ReverseProxy has prepared. It restores the query,
// which ReverseProxy cleans up, passes trailers on, and sets X-Forwarded-For, -Host and -Proto to
// what was seen. The app is the one named by the request's Host, in lower case and without a port;
// set Out.URL.Host for another.
//
// Behind a handler that passes a copy of the request on, only trailers that the client has
// announced come through.
//
// [Proxy] is a ReverseProxy with this and with all else that is needed.
func Rewrite(r *httputil.ProxyRequest) {
	r.Out.URL.Scheme, r.Out.URL.Host = "http", appOf(r.In.Host)
	r.Out.URL.RawQuery = r.In.URL.RawQuery
	if r.In.Trailer == nil {
		r.In.Trailer = http.Header{} // gets those that were not announced
	}
	r.Out.Trailer = r.In.Trailer
	r.SetXForwarded()
	// X_Forwarded_For is the same variable to CGI and WSGI, and the client's
	for k := range r.Out.Header {
		if strings.Contains(k, "_") &&
			(hop.SameVariable(k, "X-Forwarded-For") || hop.SameVariable(k, "X-Forwarded-Host") ||
				hop.SameVariable(k, "X-Forwarded-Proto")) {
			delete(r.Out.Header, k)
		}
	}
}

// appOf returns the name in a Host.
func appOf(host string) string {
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		host = host[:i]
	}
	return strings.TrimSuffix(strings.ToLower(host), ".")
}

// copyBuffers lends ReverseProxy what it copies bodies with.
type copyBuffers struct{}

// Get and Put are those of [httputil.BufferPool].
func (copyBuffers) Get() []byte { return tcp.GetBuffer()[:] }

func (copyBuffers) Put(b []byte) { tcp.PutBuffer((*[tcp.BufferSize]byte)(b)) }

// TargetHeaders names the HTTP headers in which a client may say where its request goes. An empty
// name is off, so the zero value reads nothing. Lists are separated by commas. A client that may
// send these headers can aim at single machines: remove them with [TargetHeaders.Remove] from the
// requests of all others.
type TargetHeaders struct {
	ForceMachine  string // machines of which one has to serve
	PreferMachine string // machines that serve while one of them can
	ForceRegion   string
	PreferRegion  string
	Key           string // affinity key
	Revision      string
	// Aliases are names that stand for others in the lists of machines and of regions: "eu" for "ams",
	// "fra".
	Aliases map[string][]string
}

// Bounds on what a header may hold, so that a client cannot make picks expensive.
const (
	maxTargetHeader = 1024 // bytes
	maxTargets      = 16   // names in a list, aliases resolved
)

// Read fills in what the headers say; what they do not mention stays as it is. The error names the
// header that cannot be understood and says why; answer it with 400. Then r is unchanged.
func (h TargetHeaders) Read(from http.Header, r *balance.Request) error {
	var force, prefer balance.Target
	if r.Force != nil {
		force = *r.Force
	}
	if r.Prefer != nil {
		prefer = *r.Prefer
	}
	key := r.Key
	var err error
	text := func(name string, to *string) {
		if v := from.Get(name); name != "" && v != "" && err == nil {
			if len(v) > maxTargetHeader {
				err = fmt.Errorf(
					"backhaul: header %s has %d bytes: want at most %d", name, len(v), maxTargetHeader,
				)
				return
			}
			*to = strings.TrimSpace(v)
		}
	}
	list := func(name string) (names []string) {
		var v string
		text(name, &v)
		for n := range strings.SplitSeq(v, ",") {
			if n = strings.TrimSpace(n); n == "" {
				continue
			}
			if to, ok := h.Aliases[n]; ok {
				names = append(names, to...)
			} else {
				names = append(names, n)
			}
		}
		if err == nil && len(names) > maxTargets {
			err = fmt.Errorf("backhaul: header %s names %d: want at most %d", name, len(names), maxTargets)
		}
		return names
	}
	machines := func(name string, to *[]balance.MachineID) {
		if l := list(name); len(l) > 0 {
			*to = make([]balance.MachineID, len(l))
			for i, n := range l {
				(*to)[i] = balance.MachineID(n)
			}
		}
	}
	regions := func(name string, to *[]string) {
		if l := list(name); len(l) > 0 {
			*to = l
		}
	}
	text(h.Key, &key)
	text(h.Revision, &force.Revision)
	machines(h.ForceMachine, &force.Machines)
	machines(h.PreferMachine, &prefer.Machines)
	regions(h.ForceRegion, &force.Regions)
	regions(h.PreferRegion, &prefer.Regions)
	if err != nil {
		return err
	}
	r.Key = key
	if !force.Empty() {
		r.Force = &force
	}
	if !prefer.Empty() {
		r.Prefer = &prefer
	}
	return nil
}

// Remove deletes the headers.
func (h TargetHeaders) Remove(from http.Header) {
	for _, n := range []string{
		h.ForceMachine, h.PreferMachine, h.ForceRegion, h.PreferRegion, h.Key, h.Revision,
	} {
		if n != "" {
			from.Del(n)
		}
	}
}
