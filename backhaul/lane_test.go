package backhaul

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/pool"
	"github.com/ebbkit/ebb/balance"
)

// What moves bulk is on connections of its own from the next request on.
func TestBulkHasALaneOfItsOwn(t *testing.T) {
	r := newRig(t, rigConfig{app: roomy})
	r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if r.URL.Path == "/bulk" {
			w.Write(make([]byte, 2<<20))
		}
	}))
	get := func(path string) {
		t.Helper()
		resp, err := r.transport.RoundTrip(over2(request(t, "GET", "http://web"+path, nil)))
		read(t, resp, err)
	}
	lanes := func() (n int) {
		for range r.transport.owners.Muxes.Range {
			n++
		}
		return n
	}
	small := "/small" // which must not share its slot with the other: routes are hashed anew in each process
	var known pool.BulkRoutes
	known.Mark(pool.RouteOf("web", "GET", "/bulk"), hop.BulkSize, 0, time.Now())
	for !known.Last(pool.RouteOf("web", "GET", small)).IsZero() {
		small += "r"
	}
	get(small)
	get("/bulk")
	if n := lanes(); n != 1 {
		t.Errorf("%d lanes before anything was known", n)
	}
	get(small)
	if n := lanes(); n != 1 {
		t.Errorf("%d lanes: another route's bulk moved this one", n)
	}
	get("/bulk")
	if n := lanes(); n != 2 {
		t.Errorf("%d lanes after bulk", n)
	}
	r.quiet()
}

// The hop in TLS: both protocols, told apart without negotiation.
func TestTheHopInTLS(t *testing.T) {
	certs := httptest.NewUnstartedServer(nil)
	certs.StartTLS()
	defer certs.Close()
	r := newRig(t, rigConfig{app: roomy})
	r.serve(
		"m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }),
	)
	s, err := NewServer(r.handler, ServerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(tls.NewListener(l, &tls.Config{Certificates: certs.TLS.Certificates})) }()
	trust := certs.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	r.transport.c.Dial = func(ctx context.Context, _ balance.NodeID) (net.Conn, error) {
		d := tls.Dialer{Config: &tls.Config{RootCAs: trust, ServerName: "example.com"}}
		return d.DialContext(ctx, "tcp", l.Addr().String())
	}
	for _, h2 := range []bool{false, true, true} {
		req := request(t, "POST", "http://web/", &noise{n: 100, sum: sha256.New()})
		if h2 {
			over2(req)
		}
		resp, err := r.transport.RoundTrip(req)
		if got := read(t, resp, err); len(got) != 100 {
			t.Errorf("h2 %v: got %d bytes", h2, len(got))
		}
	}
	r.transport.Close()
	s.Close()
	if err := <-done; err != http.ErrServerClosed {
		t.Error(err)
	}
}
