package backhaul

import (
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/balance"
)

// idle returns how many of the connections have carried no data since it was called last.
func idleNow(c *Connections) int {
	for now := time.Now(); !time.Now().After(now); { // a clock that stands still finds nothing idle
	}
	return c.Idle(m1, balance.ClassAll, time.Nanosecond)
}

// A WebSocket is idle while nothing but control frames pass, in either direction.
func TestAWebSocketWithoutDataIsIdle(t *testing.T) {
	both(t, func(t *testing.T, local bool) {
		r, conns := longRig(t, local, false, 0)
		client, back, machine := upgraded(t, r, "websocket")
		r.long(conns, balance.ClassWebSocket, 1)
		idleNow(conns) // looks for the first time
		step := func(name string, to io.Writer, from io.Reader, frame string, want int) {
			t.Helper()
			io.WriteString(to, frame)
			expect(t, name, from, frame)
			if n := idleNow(conns); n != want {
				t.Errorf("local %v, after %s: %d idle, want %d", local, name, n, want)
			}
		}
		if n := idleNow(conns); n != 1 {
			t.Errorf("local %v, at first: %d idle, want 1", local, n)
		}
		step("a message of the machine", machine, back, "\x81\x02hi", 0)
		step("a ping", machine, back, "\x89\x00", 1)
		step("a pong", client, machine, "\x8a\x80\x00\x00\x00\x00", 1)
		step("a message of the client", client, machine, "\x81\x82\x00\x00\x00\x00ok", 0)
		if n := conns.Idle(m1, balance.ClassAll, time.Hour); n != 0 {
			t.Errorf("local %v: %d idle for an hour", local, n)
		}
		conns.NotifyIdle(m1, balance.ClassAll, time.Hour, time.Hour) // nobody
		step("another message", machine, back, "\x81\x02hi", 0)
		idleNow(conns)
		conns.NotifyIdle(m1, balance.ClassAll, time.Nanosecond, time.Hour)
		expect(t, "a connection that was told", back, string(hop.GoingAway))
	})
}

// An event stream is idle while only comments pass.
func TestAnEventStreamOfCommentsIsIdle(t *testing.T) {
	both(t, func(t *testing.T, local bool) {
		r, conns := longRig(t, local, false, 0)
		say := make(chan string)
		r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for s := range say {
				io.WriteString(w, s)
				http.NewResponseController(w).Flush()
			}
		}))
		defer close(say)
		go func() { say <- ": hello\n" }()
		resp, err := r.front.Client().Get(r.front.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		expect(t, "the client", resp.Body, ": hello\n")
		r.long(conns, balance.ClassEvents, 1)
		idleNow(conns)
		for _, s := range []struct {
			line string
			idle int
		}{{": ping\n\n", 1}, {"data: 1\n\n", 0}, {":\n", 1}} {
			say <- s.line
			expect(t, "the client", resp.Body, s.line)
			if n := idleNow(conns); n != s.idle {
				t.Errorf("local %v, after %q: %d idle, want %d", local, s.line, n, s.idle)
			}
		}
	})
}
