package backhaul

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/pool"
	"github.com/ebbkit/ebb/backhaul/internal/tcp"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/nettest"
)

// tight is a bound for silence that lets a test see many of them. The kernel's own clock for sending again is 200 ms.
const tight = 100 * time.Millisecond

// tighten makes everybody on the way impatient.
func (r *rig) tighten() {
	for _, g := range r.guards() {
		g.Bound = tight
	}
	impatient := pool.Pings{After: tight / 4, Wait: tight / 4}
	r.transport.owners.Pings, r.hop.server.pings = impatient, impatient
}

func (r *rig) guards() []*tcp.Guards {
	return []*tcp.Guards{
		&r.transport.owners.Guards, &r.transport.machines.Guards, &r.handler.machines.Guards,
		&r.hop.server.guards,
	}
}

// sitOut waits until a guard has looked often enough at a connection on which data waits to give it up several times over.
func (r *rig) sitOut() {
	r.t.Helper()
	poll := time.NewTicker(tight / 20)
	defer poll.Stop()
	looks, last := map[*tcp.Guards]int{}, map[*tcp.Guards]time.Time{}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); <-poll.C {
		for _, g := range r.guards() {
			g.Mu.Lock()
			waits := g.Timer != nil
			now := g.Last
			g.Mu.Unlock()
			if !waits {
				looks[g] = 0
			} else if now != last[g] {
				looks[g]++
			}
			if last[g] = now; looks[g] > 30 {
				return
			}
		}
	}
	r.t.Error("nobody looks at a connection on which data waits")
}

const pausedSize = 32 << 20

// A receiver that reads nothing for as long as it likes is slow, not gone: whoever it is, whatever is between. Its kernel
// answers, and nothing else is asked of it.
func TestAReceiverMayPause(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		for _, local := range []bool{false, true} {
			name := func(s string) string { return fmt.Sprintf("%s, local=%v, h2=%v", s, local, h2) }
			t.Run(name("machine in an upload"), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, rigConfig{app: roomy, local: local})
				r.tighten()
				r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
					n, _ := io.ReadFull(q.Body, make([]byte, 64<<10))
					r.sitOut()
					rest, err := io.Copy(io.Discard, q.Body)
					fmt.Fprint(w, int64(n)+rest, err)
				}))
				req := request(t, "POST", "http://web/", io.LimitReader(endless{}, pausedSize))
				if h2 {
					over2(req)
				}
				resp, err := r.transport.RoundTrip(req)
				if got, want := read(t, resp, err), fmt.Sprint(pausedSize, " <nil>"); got != want {
					t.Errorf("got %s, want %s", got, want)
				}
				r.quiet()
			})
			if h2 {
				continue // there a client that reads nothing is a matter of windows: no connection stands still for it
			}
			t.Run(name("client in a download"), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, rigConfig{app: roomy, local: local})
				r.tighten()
				r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Length", strconv.Itoa(pausedSize))
					io.Copy(w, io.LimitReader(endless{}, pausedSize))
				}))
				resp, err := r.transport.RoundTrip(request(t, "GET", "http://web/", nil))
				if err != nil {
					t.Fatal(err)
				}
				if local { // it is the machine's kernel that waits
					<-time.After(5 * tight)
				} else {
					r.sitOut()
				}
				if got := read(t, resp, nil); len(got) != pausedSize {
					t.Errorf("got %d bytes of %d", len(got), pausedSize)
				}
				r.quiet()
			})
			for _, deaf := range []string{"client", "machine"} {
				t.Run(name(deaf+" on an upgraded connection"), func(t *testing.T) {
					t.Parallel()
					r := newRig(t, rigConfig{app: roomy, local: local})
					r.tighten()
					client, fromMachine, machine := upgraded(t, r, "echo")
					from, to := io.Reader(fromMachine), io.Writer(machine)
					if deaf == "machine" {
						from, to = machine, client
					}
					sent := make(chan error, 1)
					go func() {
						_, err := io.Copy(to, io.LimitReader(endless{}, pausedSize))
						to.(*net.TCPConn).CloseWrite()
						sent <- err
					}()
					if local && deaf == "client" {
						<-time.After(5 * tight)
					} else {
						r.sitOut()
					}
					if n, err := io.Copy(io.Discard, from); n != pausedSize || err != nil {
						t.Errorf("got %d bytes of %d, %v", n, pausedSize, err)
					}
					if err := <-sent; err != nil {
						t.Error(err)
					}
				})
			}
		}
	}
}

// valve passes the bytes of connections on, unless it is shut: then it reads nothing, and its kernel answers for it.
type valve struct {
	t  *testing.T
	to string
	mu sync.RWMutex
	l  net.Listener
}

func newValve(t *testing.T, to string) *valve {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	v := &valve{t: t, to: to, l: l}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				c.Close()
				continue
			}
			for _, c := range []net.Conn{c, far} {
				c.(*net.TCPConn).SetReadBuffer(256 << 10) // less than a window of HTTP/2
			}
			go v.pass(c, far)
			go v.pass(far, c)
		}
	}()
	return v
}

func (v *valve) pass(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		v.mu.RLock()
		to.Write(buf[:n])
		v.mu.RUnlock()
		if err != nil {
			return
		}
	}
}

// A path of HTTP/2 that takes nothing for a while is no dead one either: pings, which would wait behind the data, are not asked.
func TestAPathOfHTTP2MayPause(t *testing.T) {
	t.Parallel()
	var v *valve
	r := newRig(
		t,
		rigConfig{
			app: roomy, h2: true,
			config: Config{Dial: func(ctx context.Context, _ balance.NodeID) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "tcp", v.l.Addr().String())
			}},
		},
	)
	v = newValve(t, r.hop.Listener.Addr().String())
	r.tighten()
	shut := make(chan struct{})
	r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		<-shut
		io.Copy(w, io.LimitReader(endless{}, pausedSize))
	}))
	resp, err := r.transport.RoundTrip(over2(request(t, "GET", "http://web/", nil)))
	if err != nil {
		t.Fatal(err)
	}
	v.mu.Lock()
	close(shut)
	r.sitOut()
	v.mu.Unlock()
	if got := read(t, resp, nil); len(got) != pausedSize {
		t.Errorf("got %d bytes of %d", len(got), pausedSize)
	}
	r.quiet()
}

// A machine that is gone in the middle of an upload that it was not reading is given up all the same: nobody answers the
// probes of its window any more.
func TestAPeerThatPausedAndIsGoneIsGivenUp(t *testing.T) {
	t.Parallel()
	var h holes
	r := newRig(t, rigConfig{app: roomy, local: true, config: Config{
		MachineConfig: MachineConfig{
			DialMachine: func(ctx context.Context, m balance.Machine) (net.Conn, error) { return h.dial(ctx, m.Addr) },
		},
	}})
	r.tighten()
	paused, over := make(chan struct{}), make(chan struct{})
	r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		io.ReadFull(q.Body, make([]byte, 64<<10))
		close(paused)
		<-over
	}))
	defer close(over)
	go func() {
		<-paused
		r.sitOut()
		h.swallow(t)
	}()
	began := time.Now()
	_, err := r.transport.RoundTrip(
		request(t, "POST", "http://web/", io.LimitReader(endless{}, pausedSize)),
	)
	if e, ok := err.(*MachineError); !ok || e.Failure.Certainty() != hop.CertaintyMaybeExecuted {
		t.Errorf("got %v", err)
	}
	t.Logf("given up after %v: %v", time.Since(began), err)
	r.quiet()
}

// The kernel can be asked beneath TLS, and what was given up says so.
func TestConnectionsAreLookedAfterThroughTLS(t *testing.T) {
	t.Parallel()
	near, _ := nettest.Pair(t)
	p := pool.NewPool(pool.PoolConfig{Near: true})
	defer p.Close()
	p.Guards.Bound = tight
	w, err := p.Connect(t.Context(), func(context.Context) (net.Conn, error) {
		return tls.Client(near, &tls.Config{ServerName: "owner"}), nil
	}, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	(&holes{conns: []*net.TCPConn{near}}).swallow(t)
	if _, err := w.Write([]byte("hello")); err != tcp.ErrSilent { // waits for the handshake, which nobody answers
		t.Errorf("got %v, want %v", err, tcp.ErrSilent)
	}
	if !tcp.IsTimeout(tcp.ErrSilent) {
		t.Error("silence is no timeout")
	}
	p.Guards.Mu.Lock()
	defer p.Guards.Mu.Unlock()
	if n := len(p.Guards.List); n != 0 {
		t.Errorf("%d connections are still looked at", n)
	}
}

// Where nothing is under way nobody looks, and where much is, nothing is allocated for it.
func TestLookingAfterConnectionsCostsLittle(t *testing.T) {
	near, far := nettest.Pair(t)
	p := pool.NewPool(pool.PoolConfig{Near: true})
	defer p.Close()
	p.Guards.Every = time.Hour
	w, err := p.Connect(t.Context(), func(context.Context) (net.Conn, error) { return near, nil }, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	g := &p.Guards
	buf := make([]byte, 1)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := w.Write(buf); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(far, buf); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("a write allocates %v times", n)
	}
	if g.Timer == nil || len(g.List) != 1 {
		t.Fatalf("%d connections are looked at, want the one that was written to", len(g.List))
	}
	for range 1000 { // until the acknowledgement is here
		if g.Look(); g.Timer == nil {
			break
		}
		<-time.After(time.Millisecond)
	}
	if g.Timer != nil || len(g.List) != 0 {
		t.Errorf("%d connections are looked at although nothing is under way", len(g.List))
	}
	if _, err := w.Write(buf); err != nil {
		t.Fatal(err)
	}
	if g.Timer == nil || len(g.List) != 1 {
		t.Error("nobody looks at a connection that was written to again")
	}
}

// ends are those of an upgraded connection.
type ends struct {
	client, machine net.Conn
	wrote           chan error // what the flood ended with: a reset is told once, to a read or a write
}

func (e ends) flood(c net.Conn) {
	_, err := io.Copy(c, endless{})
	e.wrote <- err
}

// How a connection that was upgraded ends on one side is how it ends on the other.
func TestAnUpgradedConnectionEndsAsTheOtherSideDid(t *testing.T) {
	reset := func(c net.Conn) { tcp.Reset(c) }
	for _, tt := range []struct {
		name string
		end  func(e ends)
		of   func(e ends) net.Conn // the other one
		well bool
	}{
		{"the machine ends", func(e ends) { e.machine.(*net.TCPConn).CloseWrite() }, func(e ends) net.Conn { return e.client }, true},
		{"the client ends", func(e ends) { e.client.(interface{ CloseWrite() error }).CloseWrite() }, func(e ends) net.Conn { return e.machine }, true},
		{"the machine breaks", func(e ends) { reset(e.machine) }, func(e ends) net.Conn { return e.client }, false},
		{"the client breaks", func(e ends) { reset(e.client) }, func(e ends) net.Conn { return e.machine }, false},
		{"the machine breaks while it is written to", func(e ends) {
			go e.flood(e.client)
			io.ReadFull(e.machine, make([]byte, 1<<20))
			reset(e.machine)
		}, func(e ends) net.Conn { return e.client }, false},
		{"the client breaks while it is written to", func(e ends) {
			go e.flood(e.machine)
			io.ReadFull(e.client, make([]byte, 1<<20))
			reset(e.client)
		}, func(e ends) net.Conn { return e.machine }, false},
		{"the machine ends, then the client breaks", func(e ends) {
			e.machine.(*net.TCPConn).CloseWrite()
			io.Copy(io.Discard, e.client)
			reset(e.client)
		}, func(e ends) net.Conn { return e.machine }, false},
		{"the client ends, then the machine breaks", func(e ends) {
			e.client.(interface{ CloseWrite() error }).CloseWrite()
			io.Copy(io.Discard, e.machine)
			reset(e.machine)
		}, func(e ends) net.Conn { return e.client }, false},
	} {
		for _, front := range []string{"plain", "limited", "tls"} {
			for _, local := range []bool{false, true} {
				for _, known := range []bool{false, true} {
					t.Run(
						fmt.Sprintf("%s, front %s, local=%v, Connections=%v", tt.name, front, local, known),
						func(t *testing.T) {
							c := rigConfig{app: roomy, local: local}
							if known {
								conns := &Connections{}
								c.config.Connections, c.handler.Connections = conns, conns
							}
							var l log
							c.config.Trace = l.trace()
							r := newRig(t, c)
							e := ends{wrote: make(chan error, 1)}
							e.client, e.machine = upgradedBehind(t, r, front)
							io.WriteString(e.machine, "hello")
							expect(t, "the client", e.client, "hello")
							io.WriteString(e.client, "hello")
							expect(t, "the machine", e.machine, "hello")
							tt.end(e)
							other := tt.of(e)
							other.SetDeadline(time.Now().Add(time.Minute))
							_, err := io.Copy(io.Discard, other)
							if err == nil && strings.Contains(tt.name, "written to") {
								err = <-e.wrote
							}
							if (err == nil) != tt.well {
								t.Errorf("the other side got %v; did it end well: want %v", err, tt.well)
							} else if ne, ok := err.(net.Error); ok && ne.Timeout() {
								t.Errorf("the other side waited: %v", err)
							}
							e.client.Close()
							e.machine.Close()
							r.quiet()
						},
					)
				}
			}
		}
	}
}

// upgradedBehind opens a connection to a new machine m1 through a front of some kind.
func upgradedBehind(t *testing.T, r *rig, kind string) (client, machine net.Conn) {
	t.Helper()
	s := script{"echo", make(chan net.Conn, 1)}
	r.serve("m1", s)
	front := &http.Server{Handler: r.front.Config.Handler, ErrorLog: quietLog}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	var err2 error
	switch kind {
	case "limited":
		l, err2 = LimitListener(l, LimitConfig{})
	case "tls":
		certs := httptest.NewTLSServer(nil)
		t.Cleanup(certs.Close)
		l = tls.NewListener(l, &tls.Config{Certificates: certs.TLS.Certificates})
	}
	if err2 != nil {
		t.Fatal(err2)
	}
	go front.Serve(l)
	t.Cleanup(func() { front.Close() })
	if kind == "tls" {
		client, err = tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true})
	} else {
		client, err = net.Dial("tcp", addr)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	io.WriteString(
		client, "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n",
	)
	head := new(bytes.Buffer)
	for !bytes.HasSuffix(head.Bytes(), []byte("\r\n\r\n")) {
		if _, err := io.CopyN(head, client, 1); err != nil {
			t.Fatal(err)
		}
	}
	if resp, err := http.ReadResponse(bufio.NewReader(head), nil); err != nil ||
		resp.StatusCode != 101 {
		t.Fatal(resp, err)
	}
	machine = <-s.conns
	t.Cleanup(func() { machine.Close() })
	return client, machine
}

// A machine that is gone under an upgraded connection ends it in a reset as well.
func TestAnUpgradedConnectionToADeadMachineIsReset(t *testing.T) {
	for _, local := range []bool{false, true} {
		t.Run(fmt.Sprintf("local=%v", local), func(t *testing.T) {
			t.Parallel()
			var h holes
			dial := func(ctx context.Context, m balance.Machine) (net.Conn, error) { return h.dial(ctx, m.Addr) }
			r := newRig(
				t,
				rigConfig{
					app: roomy, local: local, config: Config{MachineConfig: MachineConfig{DialMachine: dial}},
					handler: HandlerConfig{MachineConfig: MachineConfig{DialMachine: dial}},
				},
			)
			r.tighten()
			client, back, _ := upgraded(t, r, "echo")
			h.swallow(t)
			io.WriteString(client, "is anybody there?")
			if _, err := back.ReadByte(); err == nil || err == io.EOF {
				t.Errorf("the client got %v, want a reset", err)
			}
			r.quiet()
		})
	}
}
