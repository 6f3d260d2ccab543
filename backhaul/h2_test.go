package backhaul

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/pool"
	"github.com/ebbkit/ebb/balance"
)

// pair2 is newPair with the owner's Server, and everything in between for a test to spoil.
func pair2(
	t *testing.T, c Config, sc ServerConfig, machine http.Handler,
	dial func(n int, real pool.Dialer) pool.Dialer,
) *Transport {
	t.Helper()
	tr, _ := newPairServed(t, c, HandlerConfig{}, sc, machine)
	h := tr.c.Dial
	worker := func(ctx context.Context) (net.Conn, error) { return h(ctx, "worker") }
	var n atomic.Int32
	tr.c.Dial = func(ctx context.Context, _ balance.NodeID) (net.Conn, error) {
		i := int(n.Add(1))
		if dial != nil {
			return dial(i, worker)(ctx)
		}
		return worker(ctx)
	}
	return tr
}

// over2 makes a request one of HTTP/2, as a front door would have it.
func over2(r *http.Request) *http.Request {
	r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/2.0", 2, 0
	return r
}

func read(t *testing.T, resp *http.Response, err error) string {
	t.Helper()
	if err != nil {
		t.Error(err)
		return ""
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

// A burst above what one connection takes: further connections are made, and nobody waits in vain. net/http's own pool
// leaves 18 of these 20 hanging when it is told to be strict, and takes seconds when it is not.
func TestABurstAboveTheStreamLimit(t *testing.T) {
	for _, warm := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			const ideal = 300 * time.Millisecond
			var conns atomic.Int32
			tr := pair2(
				t, Config{}, ServerConfig{maxStreams: 2},
				http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					time.Sleep(ideal)
					io.WriteString(w, "done")
				}),
				func(n int, real pool.Dialer) pool.Dialer {
					conns.Add(1)
					return func(ctx context.Context) (net.Conn, error) {
						time.Sleep(20 * time.Millisecond) // a round trip
						return real(ctx)
					}
				},
			)
			get := func() {
				resp, err := tr.RoundTrip(over2(request(t, "GET", "http://web/", nil)))
				if got := read(t, resp, err); got != "done" {
					t.Errorf("got %q", got)
				}
			}
			if warm {
				get()
			}
			began := time.Now()
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(get)
			}
			wg.Wait()
			took := time.Since(began)
			t.Logf("warm %v: %v over %d connections", warm, took, conns.Load())
			if took > ideal*3/2 {
				t.Errorf("warm %v: took %v", warm, took)
			}
			if conns.Load() > 14 {
				t.Errorf("%d connections for 20 streams of 2 each", conns.Load())
			}
		})
	}
}

// frame makes an HTTP/2 frame.
func frame(kind, flags byte, stream uint32, payload ...byte) []byte {
	b := []byte{byte(len(payload) >> 16), byte(len(payload) >> 8), byte(len(payload)), kind, flags}
	return append(binary.BigEndian.AppendUint32(b, stream), payload...)
}

// fakeOwner is the far end of a connection that says SETTINGS, waits for a request, and then does as told; nil ends the
// connection.
func fakeOwner(then func(say func(...[]byte), stream uint32)) pool.Dialer {
	return func(context.Context) (net.Conn, error) {
		a, b := net.Pipe()
		go func() {
			defer b.Close()
			out := make(chan []byte, 16)
			defer close(out)
			go func() {
				for p := range out {
					if p == nil {
						b.Close()
						continue
					}
					b.Write(p)
				}
			}()
			if _, err := io.ReadFull(b, make([]byte, len(hop.ClientPreface))); err != nil {
				return
			}
			out <- frame(hop.FrameSettings, 0, 0, 0, hop.SettingStreams, 0, 0, 0, 10)
			var h [hop.FrameHeader]byte
			for {
				if _, err := io.ReadFull(b, h[:]); err != nil {
					return
				}
				size := int64(h[0])<<16 | int64(h[1])<<8 | int64(h[2])
				if _, err := io.CopyN(io.Discard, b, size); err != nil {
					return
				}
				switch stream := binary.BigEndian.Uint32(h[5:]); {
				case h[3] == hop.FrameSettings && h[4]&1 == 0:
					out <- frame(hop.FrameSettings, 1, 0)
				case h[3] == 1 && then != nil: // HEADERS
					then(func(frames ...[]byte) {
						for _, f := range frames {
							out <- f
						}
					}, stream)
				}
			}
		}()
		return a, nil
	}
}

// What HTTP/2 says of a stream decides about it: a POST is sent again where the peer has said that it did not process it,
// and else never.
func TestStreamsThatFail(t *testing.T) {
	u32 := func(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
	for _, tt := range []struct {
		name  string
		then  func(func(...[]byte), uint32)
		again bool // the same machine, or another, gets the POST
		want  Failure
	}{
		{"graceful GOAWAY before it", func(say func(...[]byte), s uint32) { say(frame(7, 0, 0, append(u32(0), u32(0)...)...)) }, true, hop.FailureRefused},
		{"angry GOAWAY before it", func(say func(...[]byte), s uint32) { say(frame(7, 0, 0, append(u32(0), u32(11)...)...)) }, true, hop.FailureRefused},
		{"REFUSED_STREAM", func(say func(...[]byte), s uint32) { say(frame(3, 0, s, u32(pool.CodeRefused)...)) }, true, hop.FailureRefused},
		{"INTERNAL_ERROR", func(say func(...[]byte), s uint32) { say(frame(3, 0, s, u32(2)...)) }, false, hop.FailureReset},
		{"CANCEL", func(say func(...[]byte), s uint32) { say(frame(3, 0, s, u32(8)...)) }, false, hop.FailureReset},
		{"GOAWAY that includes it, and the end", func(say func(...[]byte), s uint32) { say(frame(7, 0, 0, append(u32(s), u32(0)...)...), nil) }, false, hop.FailureReset},
		{"the end", func(say func(...[]byte), s uint32) { say(nil) }, false, hop.FailureReset},
		{"a head that is none", func(say func(...[]byte), s uint32) { say(frame(1, 4, s, 0x88, 0x40, 1, 'A', 1, 'b')) }, false, hop.FailureMalformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var served atomic.Int32
				var l log
				tr := pair2(
					t, Config{Trace: l.trace()}, ServerConfig{},
					http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						served.Add(1)
						io.Copy(w, r.Body)
					}),
					func(n int, real pool.Dialer) pool.Dialer {
						if n == 1 {
							return fakeOwner(tt.then)
						}
						return real
					},
				)
				for _, method := range []string{"POST"} {
					resp, err := tr.RoundTrip(over2(request(t, method, "http://web/", strings.NewReader("pay"))))
					if tt.again {
						if got := read(t, resp, err); got != "pay" || served.Load() != 1 {
							t.Errorf("got %q, executed %d times, %s", got, served.Load(), &l)
						}
						continue
					}
					e, ok := errors.AsType[*MachineError](err)
					if !ok || e.Failure != tt.want || served.Load() != 0 {
						t.Errorf("got %v, executed %d times; want %v", err, served.Load(), tt.want)
					}
				}
			})
		})
	}
	// A peer that refuses for ever is passed over, again and again, and then told of. No failure is spent on it.
	synctest.Test(t, func(t *testing.T) {
		var l log
		tr := pair2(
			t, Config{tuning: tuning{failures: -1}, Trace: l.trace()}, ServerConfig{}, says(""),
			func(int, pool.Dialer) pool.Dialer {
				return fakeOwner(
					func(say func(...[]byte), s uint32) { say(frame(3, 0, s, u32(pool.CodeRefused)...)) },
				)
			},
		)
		_, err := tr.RoundTrip(over2(request(t, "POST", "http://web/", nil)))
		if e, ok := errors.AsType[*MachineError](err); !ok || e.Failure != hop.FailureRefused ||
			e.Tries != 2*(defaultRounds+1) {
			t.Errorf("got %v, %s", err, &l)
		}
		if d := l.last(t, 1); d.failures != 0 || d.Outcome != balance.OutcomeBounced {
			t.Errorf("done: %+v", d)
		}
	})
}

// silentOwner accepts and says nothing.
func silentOwner(context.Context) (net.Conn, error) {
	a, b := net.Pipe()
	go io.Copy(io.Discard, b)
	return a, nil
}

// A peer that accepts connections and says nothing is given up after three round trips and 200 ms, with nothing sent.
func TestASilentPeerIsGivenUpByItsRoundTrip(t *testing.T) {
	for _, tt := range []struct{ rtt, want time.Duration }{
		{time.Millisecond, 300 * time.Millisecond},
		{100 * time.Millisecond, 500 * time.Millisecond},
		{2 * time.Second, 3 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			var tries []Event
			tr := pair2(t, Config{
				RTT:   func(balance.NodeID) (time.Duration, bool) { return tt.rtt, true },
				Trace: Trace{Event: on(EventRetry, func(e Event) { tries = append(tries, e) })},
			}, ServerConfig{}, says("hello"), func(n int, real pool.Dialer) pool.Dialer {
				if n == 1 {
					return silentOwner
				}
				return real
			})
			resp, err := tr.RoundTrip(over2(request(t, "POST", "http://web/", strings.NewReader("x"))))
			if got := read(t, resp, err); got != "hello" {
				t.Errorf("got %q", got)
			}
			if len(tries) != 1 || tries[0].Failure != hop.FailureDial || tries[0].Took != tt.want {
				t.Errorf("%v: got %+v", tt.rtt, tries)
			}
		})
	}
}

// iceConn is a path that may freeze: nothing comes through, and nobody is told.
type iceConn struct {
	net.Conn
	frozen *atomic.Bool
	closed chan struct{}
	once   sync.Once
}

func (c *iceConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.frozen.Load() {
		<-c.closed
		return 0, net.ErrClosed
	}
	return n, err
}

func (c *iceConn) Write(p []byte) (int, error) {
	if c.frozen.Load() {
		return len(p), nil // the kernel's buffer
	}
	return c.Conn.Write(p)
}

func (c *iceConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// A path that dies under established connections is found out within 5 s; requests that may be are sent again over another.
func TestAPathThatFreezesIsLeftInFiveSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var frozen atomic.Bool
		var l log
		began := make(chan struct{}, 10)
		tr := pair2(
			t, Config{Trace: l.trace()}, ServerConfig{},
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				began <- struct{}{}
				if r.URL.Path == "/slow" {
					time.Sleep(time.Second)
				}
				io.WriteString(w, "hello")
			}),
			func(n int, real pool.Dialer) pool.Dialer {
				if n > 1 {
					return real
				}
				return func(ctx context.Context) (net.Conn, error) {
					c, err := real(ctx)
					return &iceConn{Conn: c, frozen: &frozen, closed: make(chan struct{})}, err
				}
			},
		)
		resp, err := tr.RoundTrip(over2(request(t, "GET", "http://web/", nil)))
		read(t, resp, err)
		time.AfterFunc(500*time.Millisecond, func() { frozen.Store(true) })
		at := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() { // under way when it happens, and idempotent
			resp, err := tr.RoundTrip(over2(request(t, "GET", "http://web/slow", nil)))
			if got := read(t, resp, err); got != "hello" {
				t.Errorf("got %q", got)
			}
		})
		wg.Go(func() { // perhaps executed: the client hears of it
			_, err := tr.RoundTrip(over2(request(t, "POST", "http://web/slow", strings.NewReader("x"))))
			if e, ok := errors.AsType[*MachineError](err); !ok || e.Failure != hop.FailureReset {
				t.Errorf("got %v", err)
			}
		})
		wg.Wait()
		if took := time.Since(at); took > 500*time.Millisecond+hop.Silence+1100*time.Millisecond {
			t.Errorf("took %v", took)
		}
		t.Logf("%v, %s", time.Since(at), &l)
	})
}
