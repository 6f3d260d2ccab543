package backhaul

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/auth"
	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/pool"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/delay"
	"github.com/ebbkit/ebb/internal/nettest"
)

var (
	someNonce   = [hop.NonceSize]byte{1, 2, 3}
	otherNonce  = [hop.NonceSize]byte{4, 5, 6}
	someBinding = bytes.Repeat([]byte{7}, hop.BindingSize)
)

// cluster is an edge and a worker in memory, for a synctest bubble.
type cluster struct {
	edge    *Transport
	worker  *Handler
	server  *Server
	hop     *nettest.Pipes
	fleet   *balance.Fleet // the edge's
	served  atomic.Int32   // requests that the machine got
	refused []error
	mu      sync.Mutex
}

type clusterConfig struct {
	config  Config
	handler HandlerConfig
	server  ServerConfig
	listen  func(net.Listener) net.Listener // around the owner's listener; nil: none
	dial    func(dialOwner) dialOwner       // around the edge's; nil: none
	machine func(http.ResponseWriter, *http.Request)
}

type dialOwner = func(context.Context, balance.NodeID) (net.Conn, error)

func newCluster(t *testing.T, c clusterConfig) *cluster {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	k := &cluster{hop: nettest.NewPipes()}
	worker, err := balance.NewFleet(balance.FleetConfig{Node: "worker", Region: "nrt"})
	must(err)
	edge, err := balance.NewFleet(balance.FleetConfig{Node: "edge", Region: "nrt"})
	must(err)
	g, err := worker.Host(balance.Machine{ID: "m1", App: "web", Region: "nrt"})
	must(err)
	token, _ := g.Start(0)
	g.Ready(token)
	w := worker.Watch()
	must(edge.Apply(w.Take()...))
	w.Close()
	machines := nettest.NewPipes()
	app := &http.Server{
		ErrorLog: quietLog,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			k.served.Add(1)
			if c.machine != nil {
				c.machine(w, r)
				return
			}
			b, _ := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s %s", r.Method, b)
		}),
	}
	go app.Serve(machines)
	c.handler.DialMachine = func(ctx context.Context, _ balance.Machine) (net.Conn, error) { return machines.Dial(ctx) }
	also := c.handler.Trace.Event
	c.handler.Trace.Event = func(e Event) {
		if e.Kind != EventDeny {
			if also != nil {
				also(e)
			}
			return
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		k.refused = append(k.refused, e.Err)
	}
	k.worker, err = NewHandler(worker, c.handler)
	must(err)
	k.server, err = NewServer(k.worker, c.server)
	must(err)
	var l net.Listener = k.hop
	if c.listen != nil {
		l = c.listen(l)
	}
	go k.server.Serve(l)
	b, err := balance.New(edge, balance.Config{})
	must(err)
	dial := func(ctx context.Context, _ balance.NodeID) (net.Conn, error) { return k.hop.Dial(ctx) }
	if c.dial != nil {
		dial = c.dial(dial)
	}
	c.config.Dial = dial
	k.fleet = edge
	k.edge, err = NewTransport(NoWait(b), c.config)
	must(err)
	t.Cleanup(func() {
		k.edge.Close()
		k.worker.machines.Close()
		k.server.Close()
		app.Close()
	})
	return k
}

// do sends a request and returns what the machine says, or the failure.
func (k *cluster) do(t *testing.T, method, body string, major int) string {
	t.Helper()
	req := request(t, method, "http://web/", nil)
	if body != "" {
		req = request(t, method, "http://web/", strings.NewReader(body))
	}
	req.ProtoMajor = major
	resp, err := k.edge.RoundTrip(req)
	if e, ok := errors.AsType[*MachineError](err); ok {
		return e.Failure.String() + ": " + err.Error()
	}
	return read(t, resp, err)
}

// authority is a certificate authority.
type authority struct {
	cert tls.Certificate
	pem  []byte
}

// What a request costs in round trips: over a new connection, and over one that is there. Time is virtual, and nothing
// but the path takes any.
func TestWhatAuthenticationCostsInRoundTrips(t *testing.T) {
	const rtt = 100 * time.Millisecond
	for _, tt := range []struct {
		name      string
		key       string
		tls       bool
		certs     bool
		get, post [2]int // over HTTP/1.1 and HTTP/2, on a new connection
	}{
		{"in clear, anybody", "", false, false, [2]int{2, 3}, [2]int{2, 3}},
		{"in clear, a key", "key", false, false, [2]int{3, 4}, [2]int{3, 4}},
		{"over TLS, anybody", "", true, false, [2]int{3, 4}, [2]int{3, 4}},
		{"over TLS, a key", "key", true, false, [2]int{3, 4}, [2]int{4, 4}}, // a body waits for the owner's proof
		{"over TLS, certificates", "", true, true, [2]int{3, 4}, [2]int{3, 4}},
		{"over TLS, certificates and a key", "key", true, true, [2]int{3, 4}, [2]int{4, 4}},
	} {
		for _, major := range []int{1, 2} {
			for _, method := range []string{"GET", "POST"} {
				synctest.Test(t, func(t *testing.T) {
					ca := newAuthority(t, "ca")
					links := delay.NewLinks()
					links.Set("edge", "worker", rtt)
					t.Cleanup(func() { links.Close() })
					c := clusterConfig{
						config: Config{
							tuning: tuning{spare: -1}, Keys: keysOf(tt.key),
							RTT: func(balance.NodeID) (time.Duration, bool) { return rtt, true },
						},
						handler: HandlerConfig{Keys: keysOf(tt.key), AnyNode: tt.key == "" && !tt.certs},
						dial: func(dial dialOwner) dialOwner {
							far := links.WrapDial(
								"edge", "worker",
								func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, "worker") },
							)
							return func(ctx context.Context, _ balance.NodeID) (net.Conn, error) { return far(ctx, "", "") }
						},
					}
					if tt.certs {
						c.handler.Certificate = new(Identity).NodeOf
					}
					if tt.tls {
						c.listen = func(l net.Listener) net.Listener {
							return tls.NewListener(
								l,
								&tls.Config{
									Certificates: []tls.Certificate{ca.issue(t, "worker", time.Hour)},
									ClientAuth:   tls.VerifyClientCertIfGiven, ClientCAs: ca.pool(),
								},
							)
						}
						plain := c.dial
						c.dial = func(dial dialOwner) dialOwner {
							dial = plain(dial)
							return func(ctx context.Context, owner balance.NodeID) (net.Conn, error) {
								nc, err := dial(ctx, owner)
								if err != nil {
									return nil, err
								}
								config := &tls.Config{ServerName: "worker", RootCAs: ca.pool()}
								if tt.certs {
									config.Certificates = []tls.Certificate{ca.issue(t, "edge", time.Hour)}
								}
								return tls.Client(nc, config), nil
							}
						}
					}
					k := newCluster(t, c)
					want, body := tt.get[major-1], ""
					if method == "POST" {
						want, body = tt.post[major-1], "hello"
					}
					for n, trips := range []int{want, 1, 1} {
						began := time.Now()
						if got := k.do(t, method, body, major); got != method+" "+body {
							t.Errorf("%s, %s, HTTP/%d: %s", tt.name, method, major, got)
						}
						if took := time.Since(began); took != time.Duration(trips)*rtt {
							t.Errorf(
								"%s, %s, HTTP/%d, request %d: took %v, want %d x %v", tt.name, method, major, n, took,
								trips, rtt,
							)
						}
					}
				})
			}
		}
	}
}

// A connection that is made ahead authenticates ahead, and is there for longer than a stranger's would be.
func TestSpareConnectionsAreReady(t *testing.T) {
	const rtt = 100 * time.Millisecond
	for _, overTLS := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			ca := newAuthority(t, "ca")
			links := delay.NewLinks()
			links.Set("edge", "worker", rtt)
			t.Cleanup(func() { links.Close() })
			slow := make(chan struct{})
			c := clusterConfig{
				config: Config{Keys: []string{"key"}}, handler: HandlerConfig{Keys: []string{"key"}},
				machine: func(w http.ResponseWriter, r *http.Request) {
					if r.Method == "GET" {
						<-slow
					}
					io.Copy(w, r.Body)
				},
			}
			c.dial = func(dial dialOwner) dialOwner {
				far := links.WrapDial(
					"edge", "worker",
					func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, "worker") },
				)
				return func(ctx context.Context, _ balance.NodeID) (net.Conn, error) {
					nc, err := far(ctx, "", "")
					if err == nil && overTLS {
						nc = tls.Client(nc, &tls.Config{ServerName: "worker", RootCAs: ca.pool()})
					}
					return nc, err
				}
			}
			if overTLS {
				c.listen = func(l net.Listener) net.Listener {
					return tls.NewListener(
						l, &tls.Config{Certificates: []tls.Certificate{ca.issue(t, "worker", time.Hour)}},
					)
				}
			}
			k := newCluster(t, c)
			done := make(chan string)
			go func() { done <- k.do(t, "GET", "", 1) }() // takes the connection that it makes
			time.Sleep(
				time.Minute,
			) // longer than a connection may be silent that has not authenticated
			began := time.Now()
			if got := k.do(t, "POST", "hello", 1); got != "hello" || time.Since(began) != rtt {
				t.Errorf("TLS %v: %q after %v, want one round trip", overTLS, got, time.Since(began))
			}
			time.Sleep(time.Second) // another one is made
			if n := k.server.pending.Len(); n != 0 {
				t.Errorf("TLS %v: %d connections count as not authenticated", overTLS, n)
			}
			close(slow)
			<-done
		})
	}
}

// tap records what one side of a connection writes.
type tap struct {
	net.Conn
	mu  sync.Mutex
	buf bytes.Buffer
}

func (c *tap) Write(p []byte) (int, error) {
	c.mu.Lock()
	c.buf.Write(p)
	c.mu.Unlock()
	return c.Conn.Write(p)
}

func (c *tap) recorded() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Clone(c.buf.Bytes())
}

// Whatever an edge has sent, sent once more executes nothing: in clear, and inside of another TLS connection.
func TestACopyOfAConnectionExecutesNothing(t *testing.T) {
	for _, overTLS := range []bool{false, true} {
		for _, major := range []int{1, 2} {
			for _, method := range []string{"GET", "POST"} {
				synctest.Test(t, func(t *testing.T) {
					var taps []*tap
					ca := newAuthority(t, "ca")
					inside := func(nc net.Conn) net.Conn { return nc }
					c := clusterConfig{
						config: Config{
							tuning: tuning{spare: -1}, Keys: []string{"key"},
						}, handler: HandlerConfig{Keys: []string{"key"}},
					}
					if overTLS {
						server := &tls.Config{
							Certificates:           []tls.Certificate{ca.issue(t, "worker", time.Hour)},
							SessionTicketsDisabled: true,
						}
						c.listen = func(l net.Listener) net.Listener { return tls.NewListener(l, server) }
						inside = func(nc net.Conn) net.Conn {
							return tls.Client(nc, &tls.Config{ServerName: "worker", RootCAs: ca.pool()})
						}
					}
					c.dial = func(dial dialOwner) dialOwner {
						return func(ctx context.Context, owner balance.NodeID) (net.Conn, error) {
							nc, err := dial(ctx, owner)
							if err != nil {
								return nil, err
							}
							tp := &tap{Conn: inside(nc)}
							taps = append(taps, tp)
							if t, ok := tp.Conn.(*tls.Conn); ok {
								return &tappedTLS{tp, t}, nil
							}
							return tp, nil
						}
					}
					k := newCluster(t, c)
					if got := k.do(t, method, "hello", major); got != method+" hello" {
						t.Fatal(got)
					}
					sent := taps[0].recorded()
					if !hop.BeginsHello(sent) || len(sent) < hop.HelloSize+hop.ProofSize {
						t.Fatalf("recorded %q", sent)
					}
					if bytes.Contains(sent, []byte("Ebb-Key")) || bytes.Contains(sent, []byte("key\r")) {
						t.Error("the key is sent")
					}
					served := k.served.Load()
					for _, pieces := range [][]int{{len(sent)}, {hop.HelloSize}, {hop.HelloSize, len(sent)}, {hop.HelloSize, hop.HelloSize + hop.ProofSize, len(sent)}} {
						raw, err := k.hop.Dial(t.Context())
						if err != nil {
							t.Fatal(err)
						}
						nc := inside(raw)
						go func() {
							at := 0
							for _, to := range pieces {
								nc.Write(sent[at:to])
								at = to
							}
						}()
						got, _ := io.ReadAll(nc) // until the owner ends it
						if bytes.Contains(got, []byte("200 OK")) || k.served.Load() != served {
							t.Errorf(
								"TLS %v, HTTP/%d, %s, in pieces %v: %d executed, answered %q", overTLS, major, method,
								pieces, k.served.Load()-served, got,
							)
						}
						nc.Close()
					}
					synctest.Wait()
					if n := k.server.pending.Len(); n != 0 {
						t.Errorf("%d are left", n)
					}
				})
			}
		}
	}
}

// tappedTLS is a TLS connection that records what is written into it.
type tappedTLS struct {
	*tap
	t *tls.Conn
}

func (c *tappedTLS) NetConn() net.Conn { return c.t }

// Who answers in an owner's place gets no more of a request than its head, and that over TLS only.
func TestAnImpostorGetsNoBody(t *testing.T) {
	for _, tt := range []struct {
		name    string
		overTLS bool
		major   int
		says    string // after the hello
		want    Failure
		head    bool // it may have seen that
	}{
		{"in clear, silent", false, 1, "", hop.FailureDial, false},
		{"in clear, HTTP", false, 1, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", FailureDenied, false},
		{"in clear, a refusal", false, 1, string(hop.AppendRefusal(nil, hop.AuthUnknown)), FailureDenied, false},
		{"in clear, a reply of another key", false, 2, "reply", FailureDenied, false},
		{"over TLS, silent", true, 1, "", hop.FailureTimeout, true},
		{"over TLS, an answer at once", true, 1, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", FailureDenied, true},
		{"over TLS, a reply of another key", true, 1, "reply", FailureDenied, true},
		{"over TLS, a reply of another key", true, 2, "reply", FailureDenied, false},
		{"over TLS, a refusal", true, 1, string(hop.AppendRefusal(nil, hop.AuthUnknown)), FailureDenied, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			ca := newAuthority(t, "ca")
			var got bytes.Buffer
			var mu sync.Mutex
			c := clusterConfig{
				config: Config{
					MachineConfig: MachineConfig{dialTimeout: -1}, tuning: tuning{spare: -1, failures: -1},
					Keys: []string{"key"},
				},
				handler: HandlerConfig{Keys: []string{"key"}},
			}
			c.dial = func(dialOwner) dialOwner {
				return func(ctx context.Context, owner balance.NodeID) (net.Conn, error) {
					near, far := net.Pipe()
					var nc, in net.Conn = near, far
					if tt.overTLS {
						nc = tls.Client(near, &tls.Config{InsecureSkipVerify: true})
						in = tls.Server(
							far,
							&tls.Config{
								Certificates:           []tls.Certificate{ca.issue(t, "worker", time.Hour)},
								SessionTicketsDisabled: true,
							},
						)
					}
					go func() {
						defer in.Close()
						hello := make([]byte, hop.HelloSize)
						if _, err := io.ReadFull(in, hello); err != nil {
							return
						}
						go func() {
							says := tt.says
							if says == "reply" {
								other := hop.AuthKeys("other")
								var binding []byte
								s := hop.AuthConfirm
								if t := auth.TLSOf(in); t != nil {
									binding, _ = auth.BindingOf(t)
									s = hop.AuthWelcome
								}
								says = string(hop.AppendReply(nil, s, other[0], hello, otherNonce, binding))
							}
							io.WriteString(in, says)
						}()
						for b := make([]byte, 1000); ; {
							n, err := in.Read(b)
							mu.Lock()
							got.Write(b[:n])
							mu.Unlock()
							if err != nil {
								return
							}
						}
					}()
					return nc, nil
				}
			}
			k := newCluster(t, c)
			began := time.Now()
			if fail := k.do(t, "POST", "secret body", tt.major); !strings.HasPrefix(
				fail, tt.want.String()+": ",
			) ||
				time.Since(began) > auth.AuthTimeout {
				t.Errorf("%s: %s after %v; want %v", tt.name, fail, time.Since(began), tt.want)
			}
			time.Sleep(time.Minute)
			mu.Lock()
			defer mu.Unlock()
			if s := got.String(); strings.Contains(s, "secret") || strings.Contains(s, "POST") != tt.head {
				t.Errorf("%s: it got %q", tt.name, s)
			}
		})
	}
}

// Somebody who ends TLS in the middle has two connections with different keying material, whatever certificates the edge
// accepts. In clear nobody can tell.
func TestARelayThatEndsTLSIsFoundOut(t *testing.T) {
	for _, overTLS := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			ca := newAuthority(t, "ca")
			cert := ca.issue(t, "worker", time.Hour)
			server := &tls.Config{Certificates: []tls.Certificate{cert}, SessionTicketsDisabled: true}
			anything := &tls.Config{InsecureSkipVerify: true}
			c := clusterConfig{
				config:  Config{tuning: tuning{spare: -1, failures: -1}, Keys: []string{"key"}},
				handler: HandlerConfig{Keys: []string{"key"}},
			}
			if overTLS {
				c.listen = func(l net.Listener) net.Listener { return tls.NewListener(l, server) }
			}
			c.dial = func(dial dialOwner) dialOwner {
				return func(ctx context.Context, owner balance.NodeID) (net.Conn, error) {
					up, err := dial(ctx, owner)
					if err != nil {
						return nil, err
					}
					near, far := net.Pipe()
					if !overTLS {
						go splice(far, up)
						return near, nil
					}
					go splice(tls.Server(far, server), tls.Client(up, anything))
					return tls.Client(near, anything), nil
				}
			}
			k := newCluster(t, c)
			got := k.do(t, "POST", "hello", 1)
			if overTLS && (!strings.HasPrefix(got, "denied: ") || k.served.Load() != 0) ||
				!overTLS && got != "POST hello" {
				t.Errorf("TLS %v: %s; %d executed", overTLS, got, k.served.Load())
			}
		})
	}
}

func splice(a, b net.Conn) {
	go func() { io.Copy(a, b); a.Close() }()
	io.Copy(b, a)
	b.Close()
}

// What does not fit together says on both sides what is wrong and what to do.
func TestNodesThatDoNotAcceptEachOtherSayWhy(t *testing.T) {
	for _, tt := range []struct {
		name        string
		edge        Config
		owner       HandlerConfig
		edgeTLS     bool // and the owner not
		words, told string
	}{
		{"another key", Config{Keys: []string{"old"}}, HandlerConfig{Keys: []string{"new"}}, false, "HandlerConfig.Keys", "Config.Keys"},
		{"no key here", Config{}, HandlerConfig{Keys: []string{"new"}}, false, "Config.Keys", "Config.Keys"},
		{"no key there", Config{Keys: []string{"key"}}, HandlerConfig{AnyNode: true}, false, "HandlerConfig.Keys", "HandlerConfig.Keys"},
		{"certificates there", Config{Keys: []string{"key"}}, HandlerConfig{Certificate: new(Identity).NodeOf}, false, "HandlerConfig.Keys", "HandlerConfig.Keys"},
	} {
		for _, major := range []int{1, 2} {
			synctest.Test(t, func(t *testing.T) {
				tt.edge.spare, tt.edge.failures = -1, -1
				k := newCluster(t, clusterConfig{config: tt.edge, handler: tt.owner})
				got := k.do(t, "POST", "hello", major)
				if !strings.HasPrefix(got, "denied: ") || !strings.Contains(got, "not executed") ||
					!strings.Contains(got, tt.words) {
					t.Errorf("%s, HTTP/%d: %s", tt.name, major, got)
				}
				time.Sleep(time.Minute)
				k.mu.Lock()
				defer k.mu.Unlock()
				if len(k.refused) == 0 || !strings.Contains(k.refused[0].Error(), tt.told) ||
					k.refused[0].(*net.OpError).Addr == nil {
					t.Errorf("%s, HTTP/%d: the owner was told of %v", tt.name, major, k.refused)
				}
				if k.served.Load() != 0 {
					t.Errorf("%s: executed", tt.name)
				}
			})
		}
	}
}

// An owner with another key is none to this node, and nobody else has to do with that: each request is served by the other
// owner, whose machine is charged nothing, and none is executed twice.
func TestADeniedRequestIsServedElsewhere(t *testing.T) {
	for _, major := range []int{1, 2} {
		synctest.Test(t, func(t *testing.T) {
			var l log
			var failed sync.Map // what each machine was charged
			trace := l.trace()
			trace.Event = on(EventRetry, func(e Event) {
				failed.Store(e.Machine, e.Failure)
				if e.Failure != FailureDenied {
					t.Errorf("%s failed: %v", e.Machine, e.Err)
				}
			})
			good := newCluster(
				t,
				clusterConfig{
					config:  Config{tuning: tuning{failureRatio: -1}, Keys: []string{"key"}, Trace: trace},
					handler: HandlerConfig{Keys: []string{"key"}},
				},
			)
			other, err := balance.NewFleet(balance.FleetConfig{Node: "other", Region: "nrt"})
			if err != nil {
				t.Fatal(err)
			}
			g, err := other.Host(balance.Machine{ID: "m2", App: "web", Region: "nrt"})
			if err != nil {
				t.Fatal(err)
			}
			token, _ := g.Start(0)
			g.Ready(token)
			w := other.Watch()
			if err := good.fleet.Apply(w.Take()...); err != nil {
				t.Fatal(err)
			}
			w.Close()
			h, err := NewHandler(other, HandlerConfig{Keys: []string{"another"}})
			if err != nil {
				t.Fatal(err)
			}
			s, err := NewServer(h, ServerConfig{})
			if err != nil {
				t.Fatal(err)
			}
			hop := nettest.NewPipes()
			go s.Serve(hop)
			defer s.Close()
			first := good.edge.c.Dial
			good.edge.c.Dial = func(ctx context.Context, owner balance.NodeID) (net.Conn, error) {
				if owner == "other" {
					return hop.Dial(ctx)
				}
				return first(ctx, owner)
			}
			const requests = 30
			for range requests {
				if got := good.do(t, "POST", "hello", major); got != "POST hello" {
					t.Error(got)
				}
			}
			if _, blamed := failed.Load(balance.MachineID("m1")); blamed || good.served.Load() != requests {
				t.Errorf("%d executed; the other machine blamed: %v", good.served.Load(), blamed)
			}
			if _, tried := failed.Load(balance.MachineID("m2")); !tried {
				t.Error("the owner with the other key was never tried")
			}
		})
	}
}

// The keys of a fleet change in any order of its nodes, and every request is served meanwhile.
func TestKeysChangeWithoutAGap(t *testing.T) {
	steps := [][2]string{{"old", ""}, {"new", "old"}, {"new", ""}}
	for e := range steps {
		for o := range steps {
			if e-o > 1 || o-e > 1 {
				continue // a step begins when the last one has reached every node
			}
			for _, major := range []int{1, 2} {
				synctest.Test(t, func(t *testing.T) {
					k := newCluster(t, clusterConfig{
						config:  Config{tuning: tuning{spare: -1}, Keys: keysOf(steps[e][:]...)},
						handler: HandlerConfig{Keys: keysOf(steps[o][:]...)},
					})
					if got := k.do(t, "POST", "hello", major); got != "POST hello" {
						t.Errorf("edge %q, owner %q: %s", steps[e], steps[o], got)
					}
				})
			}
		}
	}
}

// Strangers are closed at once, whatever they do not send. Nothing of a body is waited for.
func TestStrangersAreClosedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(
			t,
			clusterConfig{
				config: Config{Keys: []string{"key"}}, handler: HandlerConfig{Keys: []string{"key"}},
			},
		)
		for _, tt := range []struct {
			first string
			most  time.Duration
			want  string
		}{
			{"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n", auth.LingerFor, "403"},
			{"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", auth.LingerFor, "403"},
			{"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n", auth.LingerFor, "403"},
			{"G", auth.LingerFor, "403"},
			{hop.ClientPreface, auth.LingerFor, "403"},
			{"\x16\x03\x01", auth.LingerFor, "403"},
			{string(hop.AppendHello(nil, hop.AuthKeys("guess"), someNonce, nil)), auth.LingerFor, ""},
			{string(hop.AppendHello(nil, hop.AuthKeys("key"), someNonce, someBinding)), auth.LingerFor, ""},
			{"", 10 * time.Second, ""},
			{"\x00ebb", 10 * time.Second, ""},
			{string(hop.AppendHello(nil, hop.AuthKeys("key"), someNonce, nil)), 10 * time.Second, ""}, // a copy: no confirmation comes
		} {
			c, err := k.hop.Dial(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			if tt.first != "" {
				go io.WriteString(c, tt.first)
			}
			got, err := io.ReadAll(c)
			if took := time.Since(began); took > tt.most || err != nil {
				t.Errorf("%q: closed after %v, %v; want %v", tt.first, took, err, tt.most)
			}
			if tt.want != "" {
				resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(got)), nil)
				if err != nil || fmt.Sprint(resp.StatusCode) != tt.want || !resp.Close {
					t.Errorf("%q: answered %q", tt.first, got)
				}
			}
			c.Close()
		}
		synctest.Wait()
		if n := k.server.pending.Len(); n != 0 {
			t.Errorf("%d are left", n)
		}
		if got := k.do(t, "POST", "hello", 1); got != "POST hello" || k.served.Load() != 1 {
			t.Errorf("%s; %d executed", got, k.served.Load())
		}
	})
}

// However many strangers there are, their number is bounded, and a node gets in.
func TestTheNumberOfStrangersIsBounded(t *testing.T) {
	for _, firsts := range [][]string{{""}, {"\x00ebb"}, {string(hop.AppendHello(nil, hop.AuthKeys("key"), someNonce, nil))}, {"", "\x00"}} {
		synctest.Test(t, func(t *testing.T) {
			const most = 8
			k := newCluster(t, clusterConfig{
				config: Config{
					tuning: tuning{spare: -1}, Keys: []string{"key"},
				}, handler: HandlerConfig{Keys: []string{"key"}}, server: ServerConfig{unauthenticated: most},
			})
			var open atomic.Int32
			stranger := func(i int) {
				c, err := k.hop.Dial(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				open.Add(1)
				go io.WriteString(c, firsts[i%len(firsts)])
				go func() { io.Copy(io.Discard, c); open.Add(-1); c.Close() }()
			}
			for i := range 5 * most {
				stranger(i)
				synctest.Wait()
				if n, p := open.Load(), k.server.pending.Len(); n > most || p > most {
					t.Fatalf("%d open, %d pending; want at most %d", n, p, most)
				}
				if i%most == 0 {
					if got := k.do(t, "POST", "hello", 1+i/most%2); got != "POST hello" {
						t.Errorf("among %d strangers: %s", open.Load(), got)
					}
				}
			}
			time.Sleep(11 * time.Second)
			synctest.Wait()
			if open.Load() != 0 || k.server.pending.Len() != 0 {
				t.Errorf("%d are open after their time", open.Load())
			}
			if got := k.do(t, "POST", "hello", 1); got != "POST hello" { // over the connection that was there all the time
				t.Error(got)
			}
		})
	}
}

// Behind another server a handler serves who has authenticated, and tells others what is missing.
func TestAHandlerBehindAnotherServer(t *testing.T) {
	r := newRig(t, rigConfig{app: roomy})
	r.serve("m1", says("one"))
	start := func(change func(*httptest.Server)) (addr string) {
		s := httptest.NewUnstartedServer(r.handler)
		s.Config.ErrorLog = quietLog
		change(s)
		s.Start()
		t.Cleanup(s.Close)
		return s.Listener.Addr().String()
	}
	bare := start(func(*httptest.Server) {})
	half := start(func(s *httptest.Server) { s.Config.ConnContext = r.handler.ConnContext })
	whole := start(func(s *httptest.Server) {
		s.Listener = r.handler.Listener(s.Listener)
		s.Config.ConnContext = r.handler.ConnContext
	})
	forgotten := start(func(s *httptest.Server) { s.Listener = r.handler.Listener(s.Listener) })
	other, err := NewHandler(r.worker, HandlerConfig{AnyNode: true})
	if err != nil {
		t.Fatal(err)
	}
	foreign := start(func(s *httptest.Server) { // authenticated, by another handler
		s.Listener = other.Listener(s.Listener)
		s.Config.ConnContext = r.handler.ConnContext
	})
	for _, tt := range []struct {
		name, addr, key string
		want            int
		words           string
	}{
		{"nothing", bare, "", 403, "Handler.Listener"},
		{"ConnContext alone", half, "", 403, "Handler.Listener"},
		{"both, no key", whole, "", 403, "Config.Keys"},
		{"both", whole, testKey, 200, ""},
		{"both, another key", whole, "guess", 0, "Config.Keys"},
		{"Listener alone", forgotten, testKey, 403, "ConnContext"},
		{"a preface that nobody expects", bare, testKey, 0, "Handler.Listener"},
		{"another handler's", foreign, "", 403, "ConnContext"},
	} {
		c := &http.Transport{
			DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) { return dialHop(ctx, addr, tt.key) },
		}
		req := request(t, "GET", "http://"+tt.addr, nil)
		req.Header[hop.HeaderTo] = []string{"web;m1;0;edge"}
		resp, err := c.RoundTrip(req)
		switch {
		case err != nil && (tt.want != 0 || !strings.Contains(err.Error(), tt.words)):
			t.Errorf("%s: %v", tt.name, err)
		case err == nil:
			f, words := hop.ParseFault(resp.Header.Get(hop.HeaderFault))
			if resp.StatusCode != tt.want ||
				tt.want == 403 && (f != hop.FailureDenied || !strings.Contains(words, tt.words)) {
				t.Errorf("%s: %d, %v %q", tt.name, resp.StatusCode, f, words)
			}
			resp.Body.Close()
		}
		c.CloseIdleConnections()
	}
	r.quiet()
}

// A refusal behind another server does not wait for a body either.
func TestAForeignServerIsNotHeldByABody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fleet, err := balance.NewFleet(balance.FleetConfig{Node: "worker", Region: "nrt"})
		if err != nil {
			t.Fatal(err)
		}
		h, err := NewHandler(fleet, HandlerConfig{Keys: []string{"key"}})
		if err != nil {
			t.Fatal(err)
		}
		l := nettest.NewPipes()
		s := &http.Server{Handler: h, ErrorLog: quietLog}
		go s.Serve(l)
		defer s.Close()
		c, err := l.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		go io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
		got, _ := io.ReadAll(c)
		if took := time.Since(began); took > 2*auth.LingerFor ||
			!bytes.HasPrefix(got, []byte("HTTP/1.1 403")) { // and what net/http adds
			t.Errorf("closed after %v with %q", took, got)
		}
	})
}

// What bounds the beginning of a connection bounds nothing that comes after it: a request whose body takes its time, and
// a connection without one.
func TestTheBoundsOfABeginningEndWithIt(t *testing.T) {
	for _, major := range []int{1, 2} {
		for _, c := range []clusterConfig{
			{config: Config{Keys: []string{"key"}}, handler: HandlerConfig{Keys: []string{"key"}}},
			{handler: HandlerConfig{AnyNode: true}},
		} {
			synctest.Test(t, func(t *testing.T) {
				c.config.spare = -1
				k := newCluster(t, c)
				conns := 0
				inner := k.edge.c.Dial
				k.edge.c.Dial = func(ctx context.Context, owner balance.NodeID) (net.Conn, error) {
					conns++
					return inner(ctx, owner)
				}
				pr, pw := io.Pipe()
				go func() {
					for range 3 {
						time.Sleep(20 * time.Second) // longer than the head may take
						io.WriteString(pw, "x")
					}
					pw.Close()
				}()
				req := request(t, "POST", "http://web/", pr)
				req.ProtoMajor = major
				resp, err := k.edge.RoundTrip(req)
				if got := read(t, resp, err); got != "POST xxx" {
					t.Errorf("HTTP/%d: a slow body: %q", major, got)
				}
				time.Sleep(time.Minute)
				if got := k.do(t, "POST", "hello", major); got != "POST hello" || conns != 1 {
					t.Errorf("HTTP/%d: after a minute: %s, over %d connections", major, got, conns)
				}
			})
		}
	}
}

// A server that handles TLS itself and verifies certificates needs nothing else.
func TestAHandlerBehindAServerThatVerifiesCertificates(t *testing.T) {
	ca := newAuthority(t, "ca")
	var nodes []balance.NodeID
	r := newRig(t, rigConfig{app: roomy})
	r.serve("m1", says("one"))
	h, err := NewHandler(
		r.worker,
		HandlerConfig{
			Certificate: new(Identity).NodeOf,
			Trace:       Trace{Event: func(e Event) { nodes = append(nodes, e.Node) }},
		},
	)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = quietLog
	s.TLS = &tls.Config{
		Certificates: []tls.Certificate{ca.issue(t, "worker", time.Hour)},
		ClientAuth:   tls.VerifyClientCertIfGiven, ClientCAs: ca.pool(),
	}
	s.StartTLS()
	defer s.Close()
	lax := httptest.NewUnstartedServer(h) // it asks for a certificate and does not look at it
	lax.Config.ErrorLog = quietLog
	lax.TLS = s.TLS.Clone()
	lax.TLS.ClientAuth, lax.TLS.ClientCAs = tls.RequireAnyClientCert, nil
	lax.StartTLS()
	defer lax.Close()
	for _, tt := range []struct {
		certs []tls.Certificate
		to    string
		lax   bool
		want  int
	}{
		{[]tls.Certificate{ca.issue(t, "edge-7", time.Hour)}, "web;m1;0;me", false, 200},
		{[]tls.Certificate{ca.issue(t, "edge-7", time.Hour)}, "web;m9;0;me", false, 503},
		{nil, "web;m1;0;edge-7", false, 403},
		{[]tls.Certificate{newAuthority(t, "other").issue(t, "edge-7", time.Hour)}, "web;m1;0;edge-7", true, 403},
	} {
		c := &http.Transport{
			TLSClientConfig: &tls.Config{ServerName: "worker", RootCAs: ca.pool(), Certificates: tt.certs},
		}
		url := s.URL
		if tt.lax {
			url = lax.URL
		}
		req := request(t, "GET", url, nil)
		req.Header[hop.HeaderTo] = []string{tt.to}
		resp, err := c.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != tt.want {
			t.Errorf("%d certificates, %s: %d, want %d", len(tt.certs), tt.to, resp.StatusCode, tt.want)
		}
		c.CloseIdleConnections()
	}
	if fmt.Sprint(nodes) != "[edge-7]" {
		t.Errorf("the owner knows %v", nodes)
	}
}

// A refusal arrives, whatever the stranger has sent and nobody has read: a connection that is closed on that is reset.
func TestARefusalArrives(t *testing.T) {
	r := newRig(t, rigConfig{app: roomy})
	for _, first := range []string{
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 20000\r\n\r\n" + strings.Repeat("x", 20000),
		hop.ClientPreface + strings.Repeat("\x00", 20000),
	} {
		c, err := net.Dial("tcp", r.hop.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, first)
		got, err := io.ReadAll(c)
		if err != nil || !bytes.HasPrefix(got, []byte("HTTP/1.1 403")) ||
			!bytes.HasSuffix(got, []byte("\n")) {
			t.Errorf("got %q, %v", got, err)
		}
		c.Close()
	}
	c, err := net.Dial("tcp", r.hop.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	hello := hop.AppendHello(nil, hop.AuthKeys("guess"), someNonce, nil)
	c.Write(append(bytes.Clone(hello), make([]byte, 20000)...))
	if got, err := io.ReadAll(c); err != nil ||
		!bytes.Equal(got, hop.AppendRefusal(nil, hop.AuthUnknown)) {
		t.Errorf("got %q, %v", got, err)
	}
}

// However the writer cuts it, of what is written first only a head goes out before the owner's proof.
func TestOnlyTheHeadOfARequestIsSentAhead(t *testing.T) {
	const head, body = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n", "body"
	for _, tt := range []struct {
		writes []string
		whole  bool
		ahead  string
	}{
		{[]string{head + body}, false, head},
		{[]string{head, body}, false, head},
		{[]string{head[:20], head[20:] + body}, false, head[:20]},
		{[]string{"", head + body}, false, ""},
		{[]string{hop.ClientPreface + "frame", "frame"}, true, hop.ClientPreface + "frame"},
	} {
		synctest.Test(t, func(t *testing.T) {
			ca := newAuthority(t, "ca")
			near, far := net.Pipe()
			server := tls.Server(
				far,
				&tls.Config{
					Certificates:           []tls.Certificate{ca.issue(t, "worker", time.Hour)},
					SessionTicketsDisabled: true,
				},
			)
			defer server.Close()
			keys := hop.AuthKeys("key")
			var mu sync.Mutex
			var got bytes.Buffer
			hello := make([]byte, hop.HelloSize)
			heard := make(chan struct{})
			go func() {
				if _, err := io.ReadFull(server, hello); err != nil {
					t.Error(err)
				}
				close(heard)
				for b := make([]byte, 100); ; {
					n, err := server.Read(b)
					mu.Lock()
					got.Write(b[:n])
					mu.Unlock()
					if err != nil {
						return
					}
				}
			}()
			c, err := auth.Authenticate(t.Context(), tls.Client(near, &tls.Config{ServerName: "worker", RootCAs: ca.pool()}), "worker", keys, tt.whole)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			go func() {
				for _, w := range tt.writes {
					if n, err := io.WriteString(c, w); n != len(w) || err != nil {
						t.Errorf("%q: %d, %v", w, n, err)
					}
				}
			}()
			<-heard
			synctest.Wait()
			mu.Lock()
			if got.String() != tt.ahead {
				t.Errorf("%q: sent %q ahead, want %q", tt.writes, got.String(), tt.ahead)
			}
			mu.Unlock()
			binding, err := auth.BindingOf(server)
			if err != nil {
				t.Fatal(err)
			}
			answered := make(chan error, 1)
			go func() {
				b := make([]byte, 2)
				_, err := io.ReadFull(c, b)
				if string(b) != "ok" {
					err = fmt.Errorf("read %q, %w", b, err)
				}
				answered <- err
			}()
			server.Write(
				append(hop.AppendReply(nil, hop.AuthWelcome, keys[0], hello, otherNonce, binding), "ok"...),
			)
			if err := <-answered; err != nil {
				t.Error(err)
			}
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if got.String() != strings.Join(tt.writes, "") {
				t.Errorf("%q: sent %q in all", tt.writes, got.String())
			}
		})
	}
}

// A connection that is there and says nothing, or begins and goes no further, ends: in a request's time where it has begun
// or anybody may come, and as an idle one where a node has made it ahead.
func TestSilentConnectionsEnd(t *testing.T) {
	for _, tt := range []struct {
		name    string
		handler HandlerConfig
		key     string
		certs   bool
		first   string
		want    time.Duration
	}{
		{"anybody, nothing", HandlerConfig{AnyNode: true}, "", false, "", 10 * time.Second},
		{"anybody, half a preface", HandlerConfig{AnyNode: true}, "", false, "PRI * HT", 10 * time.Second},
		{"a key, nothing", HandlerConfig{Keys: []string{"key"}}, "key", false, "", 3 * time.Minute},
		{"a key, half a preface", HandlerConfig{Keys: []string{"key"}}, "key", false, "PRI * HT", 10 * time.Second},
		{"a key, half a head", HandlerConfig{Keys: []string{"key"}}, "key", false, "GET / HT", 10 * time.Second},
		{"a certificate, nothing", HandlerConfig{Certificate: new(Identity).NodeOf}, "", true, "", 3 * time.Minute},
		{"a certificate, half a preface", HandlerConfig{Certificate: new(Identity).NodeOf}, "", true, "PRI * HT", 10 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := clusterConfig{handler: tt.handler}
				ca := newAuthority(t, "ca")
				if tt.certs {
					c.listen = func(l net.Listener) net.Listener {
						return tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{ca.issue(t, "worker", time.Hour)}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.pool(), SessionTicketsDisabled: true})
					}
				}
				k := newCluster(t, c)
				nc, err := k.hop.Dial(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if tt.certs {
					nc = tls.Client(
						nc,
						&tls.Config{
							InsecureSkipVerify: true, Certificates: []tls.Certificate{ca.issue(t, "edge", time.Hour)},
						},
					)
				}
				if nc, err = auth.Authenticate(t.Context(), nc, "worker", hop.AuthKeys(tt.key), false); err != nil {
					t.Fatal(err)
				}
				defer nc.Close()
				began := time.Now()
				if tt.first != "" {
					go io.WriteString(nc, tt.first)
				}
				io.Copy(io.Discard, nc)
				if took := time.Since(began); took < tt.want || took > tt.want+auth.LingerFor {
					t.Errorf("ended after %v, want %v", took, tt.want)
				}
			})
		})
	}
}

// What an owner has against a certificate arrives, though the edge has sent a request already that nobody reads.
func TestAnAlertArrives(t *testing.T) {
	ca := newAuthority(t, "ca")
	sent := make(chan struct{})
	fleet, err := balance.NewFleet(balance.FleetConfig{Node: "worker", Region: "nrt"})
	if err != nil {
		t.Fatal(err)
	}
	h, err := NewHandler(fleet, HandlerConfig{Certificate: new(Identity).NodeOf})
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewServer(h, ServerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(tls.NewListener(l, &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{ca.issue(t, "worker", time.Hour)}, ClientAuth: tls.RequireAnyClientCert, SessionTicketsDisabled: true,
		VerifyPeerCertificate: func([][]byte, [][]*x509.Certificate) error { <-sent; return errors.New("not this one") },
	}))
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := auth.Authenticate(t.Context(), tls.Client(raw, &tls.Config{ServerName: "worker", RootCAs: ca.pool(), Certificates: []tls.Certificate{ca.issue(t, "edge", time.Hour)}}), "worker", nil, false)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\n\r\n"+strings.Repeat("x", 20000)); err != nil {
		t.Fatal(err)
	}
	close(sent)
	if _, err := c.Read(make([]byte, 1)); !auth.Denied(err) || auth.RefusedBy(c) == nil {
		t.Errorf("got %v", err)
	}
}

// Where an owner has to prove itself first, connecting may take a round trip more.
func TestConnectingMayTakeTheRoundTripOfAProof(t *testing.T) {
	x := &pool.Exchange{Peer: pool.Peer{RTT: 300 * time.Millisecond, RTTKnown: true}}
	without, with := pool.NewPool(pool.PoolConfig{}).Limit(x), pool.NewPool(pool.PoolConfig{Keys: hop.AuthKeys("key")}).Limit(x)
	if with != without+x.RTT {
		t.Errorf("%v with a key, %v without", with, without)
	}
}

// What a refused peer has under way is read before its connection is closed: some systems throw away what they have
// received when a reset comes, and the refusal with it.
func TestWhatARefusedPeerHasSentIsRead(t *testing.T) {
	for _, overTLS := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			ca := newAuthority(t, "ca")
			c := clusterConfig{handler: HandlerConfig{Keys: []string{"key"}}}
			sent := make(chan struct{})
			if overTLS {
				c.listen = func(l net.Listener) net.Listener {
					return tls.NewListener(l, &tls.Config{
						MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{ca.issue(t, "worker", time.Hour)}, ClientAuth: tls.RequireAnyClientCert,
						SessionTicketsDisabled: true, VerifyPeerCertificate: func([][]byte, [][]*x509.Certificate) error { <-sent; return errors.New("not this one") },
					})
				}
			}
			k := newCluster(t, c)
			nc, err := k.hop.Dial(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if overTLS {
				config := &tls.Config{
					ServerName: "worker", RootCAs: ca.pool(),
					Certificates: []tls.Certificate{ca.issue(t, "edge", time.Hour)},
				}
				if nc, err = auth.Authenticate(t.Context(), tls.Client(nc, config), "worker", nil, false); err != nil {
					t.Fatal(err)
				}
			}
			defer nc.Close()
			var writing sync.WaitGroup
			writing.Go(func() {
				if _, err := nc.Write([]byte(strings.Repeat("x", 20000))); err != nil {
					t.Errorf("TLS %v: cut off: %v", overTLS, err)
				}
			})
			synctest.Wait()
			close(sent)
			io.Copy(io.Discard, nc)
			writing.Wait()
		})
	}
}
