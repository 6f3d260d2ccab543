package backhaul

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/auth"
	"github.com/ebbkit/ebb/backhaul/internal/hop"
)

// The frames of HTTP/2 (RFC 9113, 6), as an attacker writes them.
const (
	frameData         = 0
	frameHeaders      = 1
	framePriority     = 2
	frameReset        = 3
	framePing         = 6
	frameGoAway       = 7
	frameWindow       = 8
	frameContinuation = 9

	flagEndStream  = 1
	flagEndHeaders = 4
)

// requestBlock is a request in HPACK, without compression.
func requestBlock(method byte, machine string) []byte {
	b := []byte{
		method, 0x86, 0x84, 0x01, 1, 'x',
	} // of the static table: the method, http, /, and :authority x
	for _, s := range []string{strings.ToLower(hop.HeaderTo), machine} {
		if s == strings.ToLower(hop.HeaderTo) {
			b = append(b, 0)
		}
		b = append(append(b, byte(len(s))), s...)
	}
	return b
}

const (
	methodGet  = 0x82
	methodPost = 0x83
)

// floods are what a peer may send without end, by name: the n-th piece.
var floods = map[string]func(n uint32) []byte{
	"PING":          func(uint32) []byte { return frame(framePing, 0, 0, make([]byte, 8)...) },
	"SETTINGS":      func(uint32) []byte { return frame(hop.FrameSettings, 0, 0) },
	"WINDOW_UPDATE": func(uint32) []byte { return frame(frameWindow, 0, 0, 0, 0, 0, 1) },
	"PRIORITY":      func(n uint32) []byte { return frame(framePriority, 0, 2*n+1, 0, 0, 0, 0, 1) },
	"empty DATA":    func(uint32) []byte { return frame(frameData, 0, 1) },
	"unknown":       func(uint32) []byte { return frame(0x77, 0, 0, 1, 2, 3) },
	"GOAWAY":        func(uint32) []byte { return frame(frameGoAway, 0, 0, make([]byte, 8)...) },
	"requests": func(n uint32) []byte {
		return frame(
			frameHeaders, flagEndStream|flagEndHeaders, 2*n+1,
			requestBlock(methodGet, "web;m1;0;edge")...)
	},
	"rapid reset": func(n uint32) []byte {
		return append(
			frame(
				frameHeaders, flagEndStream|flagEndHeaders, 2*n+1,
				requestBlock(methodGet, "web;m1;0;edge")...),
			frame(frameReset, 0, 2*n+1, 0, 0, 0, 8)...)
	},
	"CONTINUATION": func(n uint32) []byte {
		if n == 0 {
			return frame(frameHeaders, flagEndStream, 1, requestBlock(methodGet, "web;m1;0;edge")...)
		}
		return frame(frameContinuation, 0, 1, 0, 1, 'x', 1, 'y')
	},
	"HTTP/1.1 requests": func(uint32) []byte { return []byte("GET / HTTP/1.1\r\nHost: x\r\nEbb-To: web;m1;0;edge\r\n\r\n") },
}

// A stranger's flood ends with its connection, after a bounded number of bytes and of time, whatever it is made of. Nothing
// of it is looked at as HTTP/2, and no request of it is executed.
func TestTheFloodOfAStrangerEndsItsConnection(t *testing.T) {
	copied := hop.AppendHello(nil, hop.AuthKeys("key"), someNonce, nil)
	for name, piece := range floods {
		for _, first := range []string{hop.ClientPreface + string(frame(hop.FrameSettings, 0, 0)), "", string(copied)} {
			if name == "HTTP/1.1 requests" && strings.HasPrefix(first, "PRI") {
				continue
			}
			synctest.Test(t, func(t *testing.T) {
				k := newCluster(
					t,
					clusterConfig{
						config: Config{Keys: []string{"key"}}, handler: HandlerConfig{Keys: []string{"key"}},
					},
				)
				c, err := k.hop.Dial(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				go io.Copy(io.Discard, c)
				began := time.Now()
				sent := 0
				if first != "" {
					sent, err = io.WriteString(c, first)
				}
				for n := uint32(0); err == nil && sent < 10*auth.LingerBytes; n++ {
					var m int
					m, err = c.Write(piece(n))
					sent += m
				}
				if most := auth.LingerBytes + 1<<10; err == nil || sent > most ||
					time.Since(began) > auth.LingerFor {
					t.Errorf("%s: ended with %v after %d bytes and %v", name, err, sent, time.Since(began))
				}
				synctest.Wait()
				if n := k.server.pending.Len(); n != 0 || k.served.Load() != 0 || k.worker.InFlight() != 0 {
					t.Errorf(
						"%s: %d pending, %d executed, %d in flight", name, n, k.served.Load(), k.worker.InFlight(),
					)
				}
				if got := k.do(t, "POST", "hello", 2); got != "POST hello" {
					t.Errorf("%s: then %s", name, got)
				}
			})
		}
	}
}

// peer2 is an authenticated peer that writes its frames itself.
func peer2(t *testing.T, r *rig) net.Conn {
	t.Helper()
	c, err := dialHop(t.Context(), r.hop.Listener.Addr().String(), testKey)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if _, err := c.Write(append([]byte(hop.ClientPreface), frame(hop.FrameSettings, 0, 0)...)); err != nil {
		t.Fatal(err)
	}
	return c
}

// An authenticated peer that resets every stream that it opens has no more of them served at once than it may have open,
// and leaves nothing in flight.
func TestResetStreamsAreNotServedBeyondTheLimit(t *testing.T) {
	const most = 10
	var now, high atomic.Int32
	r := newRig(t, rigConfig{app: roomy, server: ServerConfig{maxStreams: most}, wrapHop: func(inner http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			n := now.Add(1)
			defer now.Add(-1)
			for h := high.Load(); n > h && !high.CompareAndSwap(h, n); h = high.Load() {
			}
			inner.ServeHTTP(w, q)
		})
	}})
	r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { <-q.Context().Done() }))
	c := peer2(t, r)
	over := make(chan struct{})
	go func() { defer close(over); io.Copy(io.Discard, c) }()
	for n := range uint32(20_000) {
		if _, err := c.Write(floods["rapid reset"](n)); err != nil {
			break // "enhance your calm"
		}
	}
	c.Close()
	<-over
	r.quiet()
	if high.Load() > most {
		t.Errorf("%d were served at once, with at most %d streams", high.Load(), most)
	}
}

// A head that never ends is not collected for ever.
func TestAHeadWithoutEndIsCutOff(t *testing.T) {
	r := newRig(t, rigConfig{app: roomy, server: ServerConfig{maxHeader: 64 << 10}})
	r.serve("m1", says("one"))
	c := peer2(t, r)
	ended := make(chan struct{})
	go func() { defer close(ended); io.Copy(io.Discard, c) }()
	sent := 0
	for n := uint32(0); sent < 64<<20; n++ {
		m, err := c.Write(floods["CONTINUATION"](n))
		sent += m
		if err != nil {
			break
		}
	}
	<-ended
	if sent >= 64<<20 {
		t.Errorf("%d bytes of one head were taken", sent)
	}
	r.quiet()
}

// Streams beyond what the owner has said that it takes are refused: they hold no handler and no machine.
func TestStreamsBeyondTheLimitAreRefused(t *testing.T) {
	const most, opened = 10, 2000
	r := newRig(t, rigConfig{app: roomy, server: ServerConfig{maxStreams: most}})
	r.serve("m1", says("one"))
	c := peer2(t, r)
	for n := range uint32(opened) { // bodies never come
		if _, err := c.Write(frame(frameHeaders, flagEndHeaders, 2*n+1, requestBlock(methodPost, "web;m1;0;edge")...)); err != nil {
			t.Fatal(err)
		}
	}
	c.Write(frame(framePing, 0, 0, make([]byte, 8)...)) // its answer comes behind those to the streams
	refused := 0
	for br := bufio.NewReader(c); ; {
		var head [hop.FrameHeader]byte
		if _, err := io.ReadFull(br, head[:]); err != nil {
			break // or the connection is ended
		}
		size := int64(head[0])<<16 | int64(head[1])<<8 | int64(head[2])
		if head[3] == frameReset {
			refused++
		}
		io.CopyN(io.Discard, br, size)
		if head[3] == framePing && head[4] == 1 {
			break
		}
	}
	if n := r.handler.InFlight(); n > most {
		t.Errorf("%d of %d streams are in flight, want at most %d; %d refused", n, opened, most, refused)
	}
	c.Close()
	r.quiet()
}

// The frames are what they should be: a request written by hand is served.
func TestFramesByHand(t *testing.T) {
	r := newRig(t, rigConfig{app: roomy})
	r.serve("m1", says("hello by hand"))
	c := peer2(t, r)
	c.Write(floods["requests"](0))
	var got bytes.Buffer
	for b := make([]byte, 1000); !bytes.Contains(got.Bytes(), []byte("hello by hand")); {
		n, err := c.Read(b)
		got.Write(b[:n])
		if err != nil {
			t.Fatalf("got %q, %v", got.Bytes(), err)
		}
	}
	r.quiet()
}
