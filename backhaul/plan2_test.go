package backhaul

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/ebbkit/ebb/internal/nettest"
)

// machineFaults2 are those of a machine that speaks HTTP/2: "cut 300" ends its connection after so many bytes.
var machineFaults2 = []string{"ok", "flushed", "hints", "reset", "early", "half body", "black hole", "refuse", "cut 60", "cut 300"}

// planApp is a machine that speaks HTTP/2 and does what a plan says, for each request.
type planApp struct {
	plan *plan
	l    *nettest.Pipes
	s    *http.Server
}

func newPlanApp(p *plan) *planApp {
	a := &planApp{plan: p, l: nettest.NewPipes()}
	a.s = &http.Server{Handler: a, ErrorLog: quietLog, Protocols: new(http.Protocols)}
	a.s.Protocols.SetUnencryptedHTTP2(true)
	go a.s.Serve(a.l)
	return a
}

func (a *planApp) close() { a.s.Close() }

// machineOffset takes a fault of a connection off the plan.
func (p *plan) machineOffset() (cut int, refuse bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.machines) == 0 {
		return -1, false
	}
	f := p.machines[0]
	n := -1
	if _, err := fmt.Sscanf(f, "cut %d", &n); err != nil && f != "refuse" {
		return -1, false
	}
	p.machines = p.machines[1:]
	return n, f == "refuse"
}

func (a *planApp) dial(ctx context.Context) (net.Conn, error) {
	cut, refuse := a.plan.machineOffset()
	if refuse {
		return nil, errors.New("connection refused")
	}
	c, err := a.l.Dial(ctx)
	if err != nil {
		return nil, err
	}
	return &cutConn{Conn: c, toWrite: -1, read: cut}, nil
}

func (a *planApp) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	fault := a.plan.machine()
	if fault == "early" { // before it has read a byte
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	a.plan.mu.Lock()
	a.plan.executed[r.URL.Path]++
	a.plan.mu.Unlock()
	sum := fmt.Sprintf("%x", sha256.Sum256(body))
	flush := func() { w.(http.Flusher).Flush() }
	switch fault {
	case "flushed":
		flush()
		io.WriteString(w, sum[:10])
		flush()
		io.WriteString(w, sum[10:])
	case "hints":
		w.WriteHeader(http.StatusEarlyHints)
		io.WriteString(w, sum)
	case "reset":
		panic(http.ErrAbortHandler)
	case "half body":
		w.Header().Set("Content-Length", fmt.Sprint(len(sum)))
		io.WriteString(w, sum[:10])
		flush()
		panic(http.ErrAbortHandler)
	case "black hole":
		select {
		case <-r.Context().Done():
		case <-time.After(time.Hour):
		}
	default:
		io.WriteString(w, sum)
	}
}
