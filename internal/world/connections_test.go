package world

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/events"
	"github.com/ebbkit/ebb/internal/status"
)

// guarded is a driver that checks whether it may suspend.
type guarded struct {
	Driver
	p *longPlay
}

func (d *guarded) Suspend(ctx context.Context, m balance.Machine) error {
	if n := d.p.workers[0].fleet.Gate(m.App, m.ID).InFlight(); n > 0 {
		d.p.Errorf("%s is suspended under %d connections", m.ID, n)
	}
	return d.Driver.Suspend(ctx, m)
}

// longPlay is a world of two machines, one more than it needs. One has a WebSocket, the other an
// event stream.
type longPlay struct {
	*play
	ws          net.Conn
	fromWS      *bufio.Reader
	sse         *http.Response
	onWS, onSSE string
}

// longVirtual runs a test with a longPlay in virtual time.
func longVirtual(t *testing.T, notify balance.Class, f func(t *testing.T, p *longPlay)) {
	t.Helper()
	p := &longPlay{}
	virtual(t, func(c *Config) {
		c.App.Autostop, c.Window, c.Notify = balance.AutostopSuspend, time.Second, notify
		drive := c.Driver
		c.Driver = func(region string) (Driver, error) {
			d, err := drive(region)
			return &guarded{d, p}, err
		}
	}, func(t *testing.T, world *play) {
		p.play = world
		for p.onWS == "" || p.onWS == p.onSSE { // one may have fallen asleep before it was used
			if p.ws != nil {
				p.ws.Close()
				p.sse.Body.Close()
			}
			p.connect(t)
		}
		defer func() { p.ws.Close(); p.sse.Body.Close() }()
		f(t, p)
	})
}

func (p *longPlay) connect(t *testing.T) {
	t.Helper()
	k := p.workers[0]
	rows, _ := k.fleet.App("web")
	for m := range rows.All() {
		if _, err := k.starter.Start(t.Context(), *m); err != nil {
			t.Fatal(err)
		}
	}
	p.until("both run, and the edge knows", func(s status.Snapshot) bool {
		known := 0
		rows, _ := p.edge.fleet.App("web")
		for m := range rows.All() {
			if m.State == balance.StateStarted {
				known++
			}
		}
		return known == 2 && idle(s)
	})
	var err error
	if p.ws, err = p.dial(); err != nil {
		t.Fatal(err)
	}
	p.ws.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(
		p.ws,
		"GET /ws HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
	)
	p.fromWS = bufio.NewReader(p.ws)
	resp, err := http.ReadResponse(p.fromWS, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("handshake: %+v, %v", resp, err)
	}
	if p.sse, err = p.client.Get(p.url + "/sse?ms=10"); err != nil {
		t.Fatal(err)
	}
	p.onWS, p.onSSE = "", p.sse.Header.Get("X-Machine")
	for _, m := range p.Snapshot().Machines {
		if m.Load == 1 && m.ID != p.onSSE {
			p.onWS = m.ID
		}
	}
}

// vetoes returns why machines were not stopped.
func (p *longPlay) vetoes() (reasons []string) {
	for _, e := range p.Events().Since(0, 10_000) {
		if e.Kind == events.Veto {
			reasons = append(reasons, e.Reason)
		}
	}
	return reasons
}

// state returns the state of a machine.
func (p *longPlay) state(id string) string {
	for _, m := range p.Snapshot().Machines {
		if m.ID == id {
			return m.State
		}
	}
	return ""
}

func (p *longPlay) suspended(id string) {
	p.Helper()
	p.until("the machine sleeps", func(status.Snapshot) bool { return p.state(id) == "suspended" })
}

func (p *longPlay) echoes() {
	p.Helper()
	p.ws.Write([]byte{0x81, 0x82, 0, 0, 0, 0, 'h', 'i'}) // a masked text frame
	frame := make([]byte, 4)
	if _, err := io.ReadFull(p.fromWS, frame); err != nil ||
		!bytes.Equal(frame, []byte{0x81, 2, 'h', 'i'}) {
		p.Errorf("echo: %q, %v", frame, err)
	}
}

// wantTold checks that a machine was cordoned, its connections told, and then it was suspended.
func (p *longPlay) wantTold(id string) {
	p.Helper()
	var ks []string
	last := func(kind string) int {
		for i := len(ks) - 1; i >= 0; i-- {
			if ks[i] == kind {
				return i
			}
		}
		return -1
	}
	p.until(
		id+" is cordoned, notified and suspended, and the log says so",
		func(status.Snapshot) bool {
			ks = p.kinds(id)
			c, n, s := last("soft-cordon"), last("notify"), last("suspend")
			return c >= 0 && n > c && s > n
		},
	)
}

func TestLongConnectionsVetoByDefault(t *testing.T) {
	longVirtual(t, 0, func(t *testing.T, p *longPlay) {
		p.until("a veto that says why", func(status.Snapshot) bool {
			return slices.ContainsFunc(
				p.vetoes(), func(r string) bool { return strings.Contains(r, "long connections: ") },
			)
		})
		p.until("two decisions more", func() func(status.Snapshot) bool {
			at := time.Now()
			return func(status.Snapshot) bool { return time.Since(at) > 2500*time.Millisecond }
		}())
		if told := p.vetoes(); len(slices.Compact(slices.Clone(told))) != len(told) {
			t.Errorf("a veto is told again and again: %q", told)
		}
		if a, b := p.state(p.onWS), p.state(p.onSSE); a != "started" || b != "started" {
			t.Errorf("under long connections: %s and %s", a, b)
		}
		p.echoes()
		p.sse.Body.Close()
		p.suspended(p.onSSE) // nothing keeps it running any longer
		p.echoes()
	})
}

func TestAWebSocketIsToldBeforeItsMachineSleeps(t *testing.T) {
	longVirtual(t, balance.ClassWebSocket, func(t *testing.T, p *longPlay) {
		frame := make([]byte, 14)
		if _, err := io.ReadFull(p.fromWS, frame); err != nil ||
			string(frame) != "\x88\x0c\x03\xe9going away" {
			t.Fatalf("got %q, %v; want a close frame with 1001", frame, err)
		}
		if s := p.state(p.onWS); s != "started" {
			t.Errorf("told when %s", s)
		}
		p.ws.Write([]byte("\x88\x82\x00\x00\x00\x00\x03\xe9"))
		if rest, err := io.ReadAll(p.fromWS); len(rest) > 0 || err != nil {
			t.Errorf("after the close frame: %q, %v", rest, err)
		}
		p.ws.Close()
		p.suspended(p.onWS)
		p.wantTold(p.onWS)
		if s := p.state(p.onSSE); s != "started" {
			t.Errorf("the machine under an event stream is %s", s)
		}
	})
}

func TestAnEventStreamEndsBeforeItsMachineSleeps(t *testing.T) {
	longVirtual(t, balance.ClassEvents, func(t *testing.T, p *longPlay) {
		b, err := io.ReadAll(p.sse.Body)
		if err != nil || !bytes.HasPrefix(b, []byte("id: 1\n")) || !bytes.HasSuffix(b, []byte("\n")) {
			t.Errorf("the stream ends in %q, %v; want a clean end", b[max(0, len(b)-80):], err)
		}
		p.suspended(p.onSSE)
		p.wantTold(p.onSSE)
		p.echoes()
	})
}

// Maintenance ignores whether connections may be told to end.
func TestAnOrderTellsLongConnections(t *testing.T) {
	longVirtual(t, 0, func(t *testing.T, p *longPlay) {
		stopped := make(chan error, 2)
		for _, id := range []string{p.onWS, p.onSSE} {
			go func() { stopped <- p.StopMachine(t.Context(), id, status.Order{Reason: "new kernel", Drain: patience}) }()
		}
		if b, err := io.ReadAll(p.sse.Body); err != nil || !bytes.HasSuffix(b, []byte("\n")) {
			t.Errorf("the stream ends in %q, %v; want a clean end", b[max(0, len(b)-80):], err)
		}
		frame := make([]byte, 14)
		if _, err := io.ReadFull(p.fromWS, frame); err != nil ||
			string(frame) != "\x88\x0c\x03\xe9going away" {
			t.Fatalf("got %q, %v; want a close frame with 1001", frame, err)
		}
		p.ws.Write([]byte("\x88\x82\x00\x00\x00\x00\x03\xe9"))
		p.ws.Close()
		for range 2 {
			if err := <-stopped; err != nil {
				t.Error(err)
			}
		}
		for _, id := range []string{p.onWS, p.onSSE} { // the edge may have had one started again for the other's connection
			p.until(id+" was notified and stopped, and the log says so", func(status.Snapshot) bool {
				ks := p.kinds(id)
				return slices.Contains(ks, "notify") && slices.Contains(ks, "stopped")
			})
		}
	})
}

// webSocket opens a WebSocket to the app.
func (p *play) webSocket() (net.Conn, *bufio.Reader) {
	p.Helper()
	c, err := p.dial()
	if err != nil {
		p.Fatal(err)
	}
	p.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(c,
		"GET /ws HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	in := bufio.NewReader(c)
	if resp, err := http.ReadResponse(in, nil); err != nil ||
		resp.StatusCode != http.StatusSwitchingProtocols {
		p.Fatalf("handshake: %+v, %v", resp, err)
	}
	return c, in
}

// End to end: the machine's owner finds the connections idle, and no edge, which counts them as
// requests in flight, recalls the machine for them.
func TestIdleWebSocketsKeepNoMachine(t *testing.T) {
	for _, edges := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d edges", edges), func(t *testing.T) {
			virtual(t, func(c *Config) {
				c.Edges, c.Regions = edges, []Region{{"nrt", 1}}
				c.App.KeepAlive, c.App.IdleAfter = 100*time.Millisecond, 100*time.Millisecond
			}, func(t *testing.T, p *play) {
				conns := map[net.Conn]*bufio.Reader{}
				for range edges { // clients come to the edges in turn
					c, in := p.webSocket()
					conns[c] = in
				}
				for c, in := range conns {
					frame := make([]byte, 14)
					if _, err := io.ReadFull(in, frame); err != nil ||
						string(frame) != "\x88\x0c\x03\xe9going away" {
						t.Fatalf("got %q, %v; want a close frame with 1001\n%s", frame, err, p.told())
					}
					c.Write([]byte("\x88\x82\x00\x00\x00\x00\x03\xe9"))
					c.Close()
				}
				p.until("the machine sleeps", func(s status.Snapshot) bool { return in(s, "stopped") == 1 })
				if ks := p.kinds("nrt-1"); slices.Contains(ks, "uncordon") {
					t.Errorf("it was recalled: %v\n%s", ks, p.told())
				}
				if a := p.get("/"); a.status != http.StatusOK {
					t.Errorf("who comes afterwards: %+v", a)
				}
			})
		})
	}
}
