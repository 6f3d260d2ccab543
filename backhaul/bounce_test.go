package backhaul

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// log keeps what a Trace told, as short lines.
type log struct {
	mu    sync.Mutex
	lines []string
	done  []Done
}

func (l *log) add(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf(format, args...))
}

func (l *log) trace() Trace {
	return Trace{
		Event: func(e Event) {
			switch e.Kind {
			case EventBounce:
				l.add("%s bounced: %s", e.Machine, e.Bounce)
			case EventRetry:
				l.add("%s failed: %s", e.Machine, e.Failure)
			}
		},
		Done: func(d Done) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.done = append(l.done, d)
		},
	}
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, ", ")
}

// on returns a hook for events of one kind.
func on(kind EventKind, do func(Event)) func(Event) {
	return func(e Event) {
		if e.Kind == kind {
			do(e)
		}
	}
}

// last returns the last Done and checks that each of n requests had one. It waits: a client may have its answer before
// the proxy has told its trace.
func (l *log) last(t *testing.T, n int) Done {
	t.Helper()
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(30 * time.Second); ; <-poll.C {
		l.mu.Lock()
		done := slices.Clone(l.done)
		l.mu.Unlock()
		if len(done) == n {
			return done[n-1]
		}
		if len(done) > n || time.Now().After(deadline) {
			t.Fatalf("%d requests ended, want %d", len(done), n)
		}
	}
}

func fetch(t *testing.T, c *http.Client, req *http.Request) (*http.Response, string) {
	t.Helper()
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

func request(t *testing.T, method, url string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// fill takes all the slots that are left at a gate.
func fill(t *testing.T, g *balance.Gate, n int) (leave func()) {
	t.Helper()
	for range n {
		if _, b := g.Enter(0, 0, 0); b != balance.BounceNone {
			t.Fatal("cannot fill:", b)
		}
	}
	return func() {
		for range n {
			g.Leave()
		}
	}
}

// first prefers machines in the order of their IDs, so that tests know who is tried.
var first = balance.StrategyFunc(func(v *balance.View, r balance.Request) (slot balance.Slot, ok bool) {
	var best, c balance.Candidate
	for i := range v.Regions() {
		for j := range v.Len(i, balance.TierReady) {
			if s := v.Slot(i, balance.TierReady, j); v.Usable(s, &r, &c) && (!ok || c.ID < best.ID) {
				slot, best, ok = s, c, true
			}
		}
	}
	return slot, ok
})

// roomy is an app whose machines take 50 requests each.
var roomy = balance.App{ID: "web", Strategy: first, Limits: balance.Limits{Hard: 50}}

func TestABouncedRequestGoesElsewhere(t *testing.T) {
	var l log
	r := newRig(t, rigConfig{app: roomy, config: Config{Trace: l.trace()}})
	g1 := r.serve("m1", says("one"))
	r.serve("m2", says("two"))
	leave := fill(t, g1, 50) // somebody else's request, of which this edge has not heard
	_, body := fetch(t, r.front.Client(), request(t, "GET", r.front.URL, nil))
	if want := "m1 bounced: full"; body != "two" || l.String() != want {
		t.Errorf("got %q, %s; want two, %s", body, &l, want)
	}
	// The bounce has brought m1's load: the next request does not try it.
	_, body = fetch(t, r.front.Client(), request(t, "GET", r.front.URL, nil))
	if want := "m1 bounced: full"; body != "two" || l.String() != want {
		t.Errorf("second: got %q, %s; want two and no further bounce", body, &l)
	}
	leave()
	r.quiet()
	if d := l.last(t, 2); d.Tries != 1 || d.Status != 200 || d.Outcome != balance.OutcomeDone || d.Received != 3 {
		t.Errorf("done: %+v", d)
	}
}

func TestEveryBounceIsTriedElsewhere(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(r *rig, g *balance.Gate)
		want string
	}{
		{"closing", func(r *rig, g *balance.Gate) { gen, _ := g.Cordon(); g.Close(gen, false) }, "m1 bounced: closing"},
		{"stopped", func(r *rig, g *balance.Gate) { g.Exited(1, true) }, "m1 bounced: stopped"},
		{"gone", func(r *rig, g *balance.Gate) {
			r.gates["m1"].Exited(1, false) // what runs is not removed
			r.worker.Apply(balance.RemoveMachine{App: "web", ID: "m1", Version: balance.Version{Incarnation: 9}})
		}, "m1 bounced: not-here"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, method := range []string{"GET", "POST"} {
				var l log
				r := newRig(t, rigConfig{app: roomy, config: Config{Trace: l.trace()}})
				g := r.serve("m1", says("one"))
				r.serve("m2", says("two"))
				tt.do(r, g) // the edge's rows are late
				_, body := fetch(t, r.front.Client(), request(t, method, r.front.URL, strings.NewReader("hello")))
				if body != "two" || l.String() != tt.want {
					t.Errorf("%s: got %q, %s; want two, %s", method, body, &l, tt.want)
				}
				r.quiet()
			}
		})
	}
}

// waiting is a picker with a waiting room, as autostart has it.
type waiting struct {
	b    *balance.Balancer
	room chan struct{}
	park func()
}

func newWaiting(park func()) func(b *balance.Balancer) Picker {
	return func(b *balance.Balancer) Picker {
		w := &waiting{b: b, room: make(chan struct{}, 1), park: park}
		b.OnRoom(func(balance.AppID) {
			select {
			case w.room <- struct{}{}:
			default:
			}
		})
		return w
	}
}

func (w *waiting) Acquire(ctx context.Context, r *balance.Request) (balance.Reservation, error) {
	for {
		res, err := w.b.Pick(*r)
		if err == nil || !errors.Is(err, balance.ErrNoMachine) {
			return res, err
		}
		r.Tried = nil
		w.park()
		select {
		case <-w.room:
		case <-ctx.Done():
			return res, ctx.Err()
		}
	}
}

func TestWhenAllAreFullTheRequestParks(t *testing.T) {
	var l log
	var r *rig
	var leave atomic.Pointer[func()]
	r = newRig(t, rigConfig{app: roomy, config: Config{Trace: l.trace()}, picker: newWaiting(func() {
		if f := leave.Swap(nil); f != nil {
			(*f)()              // a slot gets free while the request waits,
			for i := range 50 { // and in time the edge dares to try again
				r.b.Tick(time.Now().Add(time.Duration(i) * time.Second))
			}
		}
	})})
	r.b.Tick(time.Now())
	g1, g2 := r.serve("m1", says("one")), r.serve("m2", says("two"))
	l1, l2 := fill(t, g1, 50), fill(t, g2, 50)
	leave.Store(&l2)
	_, body := fetch(t, r.front.Client(), request(t, "POST", r.front.URL, strings.NewReader("hello")))
	if body != "two" {
		t.Errorf("got %q (%s), want two", body, &l)
	}
	if got := l.String(); !strings.HasPrefix(got, "m1 bounced: full, m2 bounced: full") {
		t.Errorf("got %s", got)
	}
	l1()
	r.quiet()
}

func TestWithoutAWaitingRoomAllFullIs503(t *testing.T) {
	r := newRig(t, rigConfig{app: roomy, config: Config{tuning: tuning{rounds: 2}}})
	leave := fill(t, r.serve("m1", says("one")), 50)
	resp, body := fetch(t, r.front.Client(), request(t, "GET", r.front.URL, nil))
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "1" || !strings.Contains(body, "hard limit") {
		t.Errorf("got %d %v %q", resp.StatusCode, resp.Header, body)
	}
	leave()
	r.quiet()
}

// What the client hears of is what was so last: that all are busy, where a bounce has come after a
// failure.
func TestABounceAfterAFailureIsWhatCounts(t *testing.T) {
	var l log
	r := newRig(t, rigConfig{app: roomy, config: Config{tuning: tuning{patience: 1}, Trace: l.trace()}})
	r.host("m1", "127.0.0.1:1") // nobody listens
	leave := fill(t, r.serve("m2", says("two")), 50)
	_, err := r.transport.RoundTrip(request(t, "POST", "http://web/", nil))
	if u, ok := errors.AsType[*UnavailableError](err); !ok || u.Bounces == 0 ||
		!strings.HasPrefix(l.String(), "m1 failed: dial, m2 bounced: full") {
		t.Errorf("%s: got %v", &l, err)
	}
	leave()
	r.quiet()
}
