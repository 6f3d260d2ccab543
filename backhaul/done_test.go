package backhaul

import (
	"context"
	"encoding"
	"errors"
	"fmt"
	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/ebbkit/ebb/backhaul/internal/pool"
	"github.com/ebbkit/ebb/balance"
)

// contextKey is where a test's middleware puts a value.
type contextKey struct{}

// forbidden is what a user's Route may return.
type forbidden struct{}

func (forbidden) Error() string { return "not for you" }

func (forbidden) StatusCode() int { return 403 }

// Done tells of each request what metrics need, whether a machine answered it or nothing did: the app, the status that the
// client got, and the cause. Nobody is said to have refused what nobody was asked for.
func TestDoneTellsWhatTheClientGot(t *testing.T) {
	for _, tt := range []struct {
		name, app, method, path string
		full                    bool // the machine, and the edge does not know
		status                  int
		cause                   string
		outcome                 balance.Outcome
	}{
		{name: "answered", app: "web", path: "/", status: 200, outcome: balance.OutcomeDone},
		{name: "the app's own 404", app: "web", path: "/none", status: 404, outcome: balance.OutcomeDone},
		{name: "asleep", app: "asleep", path: "/", status: 503, cause: causeNoMachine, outcome: balance.OutcomeUnserved},
		{name: "unknown app", app: "unknown", path: "/", status: 404, cause: causeNoApp, outcome: balance.OutcomeUnserved},
		{name: "full", app: "web", path: "/", full: true, status: 503, cause: causeFull, outcome: balance.OutcomeBounced},
		{name: "broken off before its head", app: "web", method: "POST", path: "/reset", status: 502, cause: causeMachine, outcome: balance.OutcomeError},
		{name: "broken off after its head", app: "web", path: "/cut", status: 200, cause: causeMachine, outcome: balance.OutcomeError},
		{name: "refused by Route", path: "/", status: 403, cause: causeRequest, outcome: balance.OutcomeUnserved},
		{name: "CONNECT", app: "web", method: "CONNECT", path: "/", status: 501, cause: causeRequest, outcome: balance.OutcomeUnserved},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var l log
			route := func(r *http.Request) (balance.Request, error) {
				if tt.app == "" {
					return balance.Request{}, forbidden{}
				}
				return balance.Request{App: balance.AppID(tt.app)}, nil
			}
			r := newRig(
				t,
				rigConfig{
					app:    balance.App{Limits: balance.Limits{Hard: 2}},
					config: Config{tuning: tuning{rounds: 1}, Route: route, Trace: l.trace()},
				},
			)
			g := r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch r.URL.Path {
				case "/reset":
					panic(http.ErrAbortHandler)
				case "/cut":
					w.Write(make([]byte, 64<<10))
					w.(http.Flusher).Flush()
					panic(http.ErrAbortHandler)
				case "/none":
					http.NotFound(w, r)
				}
			}))
			leave := func() {}
			if tt.full {
				leave = fill(t, g, 2)
			}
			if err := r.edge.Apply(balance.PutApp{App: balance.App{ID: "asleep"}}); err != nil {
				t.Fatal(err)
			}
			front := r.front.Config.Handler
			proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				front.ServeHTTP(
					w, r.WithContext(context.WithValue(r.Context(), contextKey{}, "from middleware")),
				)
			}))
			defer proxy.Close()
			req := request(t, tt.method, proxy.URL+tt.path, nil)
			req.Host = "shop.example"
			resp, err := proxy.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			d := l.last(t, 1)
			if d.Status != tt.status || resp.StatusCode != tt.status || d.Cause != tt.cause ||
				d.Outcome != tt.outcome ||
				string(d.App) != tt.app {
				t.Errorf(
					"the client got %d; done: app %q, status %d, cause %q, outcome %v (%v)", resp.StatusCode,
					d.App, d.Status, d.Cause, d.Outcome, d.Err,
				)
			}
			if d.Method != req.Method ||
				d.Context.Value(contextKey{}) != "from middleware" {
				t.Errorf("done: %s, context %v", d.Method, d.Context)
			}
			if again := resp.Header.Get("Retry-After"); (again != "") != (tt.status == 503) {
				t.Errorf("status %d with Retry-After %q", tt.status, again)
			}
			leave()
			r.quiet()
		})
	}
}

// What a client reads says what it can do, and nothing of what is behind the proxy.
func TestErrorsDoNotNameWhatIsInside(t *testing.T) {
	for _, err := range []error{
		&UnavailableError{App: "web", Err: &balance.NoMachineError{App: "web", Seen: 2, Full: 2}},
		&UnavailableError{App: "web", Err: fmt.Errorf("%w: %q: put it into the fleet with PutApp", balance.ErrNoApp, "web")},
		&UnavailableError{App: "web", Err: startFailed{}},
		&MachineError{App: "web", Machine: "m1", Owner: "worker-3", Failure: hop.FailureReset, Err: errors.New("read tcp 10.0.0.7:4711: connection reset")},
		&MachineError{App: "web", Machine: "m1", Owner: "worker-3", Failure: hop.FailureTimeout, Err: context.DeadlineExceeded},
		&pool.BodyError{Err: errors.New("read tcp 10.0.0.7:4711: m1")},
		errors.New("backhaul: worker-3 m1 10.0.0.7"),
	} {
		w := httptest.NewRecorder()
		ErrorHandler{}.ServeError(w, request(t, "GET", "http://x/", nil), err)
		for _, inside := range []string{"m1", "worker-3", "10.0.0.7", "web", "PutApp"} {
			if strings.Contains(w.Body.String(), inside) {
				t.Errorf("%v: the client reads %q", err, w.Body)
			}
		}
		if !strings.HasPrefix(w.Body.String(), http.StatusText(w.Code)) {
			t.Errorf("%v: the client reads %q", err, w.Body)
		}
	}
}

// Each value of each enum reads back its own text, and no other text is taken.
func TestEnumsReadTheirOwnText(t *testing.T) {
	for _, names := range []struct {
		text func(i int) (value encoding.TextMarshaler, back encoding.TextUnmarshaler)
	}{
		{func(i int) (encoding.TextMarshaler, encoding.TextUnmarshaler) {
			return Failure(i), new(Failure)
		}},
		{func(i int) (encoding.TextMarshaler, encoding.TextUnmarshaler) { return EventKind(i), new(EventKind) }},
		{func(i int) (encoding.TextMarshaler, encoding.TextUnmarshaler) { return Freed(i), new(Freed) }},
	} {
		seen := map[string]bool{}
		n := 0
		for ; ; n++ {
			value, back := names.text(n)
			if strings.HasSuffix(fmt.Sprint(value), fmt.Sprintf("(%d)", n)) {
				break
			}
			text, err := value.MarshalText()
			if err != nil || fmt.Sprint(value) != string(text) || seen[string(text)] {
				t.Errorf("%T(%d) has the text %q, %v", value, n, text, err)
			}
			seen[string(text)] = true
			if err := back.UnmarshalText(text); err != nil || fmt.Sprint(back) != string(text) {
				t.Errorf("%T: %q reads back as %v, %v", value, text, back, err)
			}
		}
		if len(seen) < 3 {
			t.Errorf("%d values", len(seen))
		}
		value, back := names.text(n)
		if text, err := value.MarshalText(); err == nil {
			t.Errorf("%T(%d) has the text %q", value, n, text)
		}
		if err := back.UnmarshalText([]byte("later")); err == nil ||
			!strings.Contains(err.Error(), ": want ") {
			t.Errorf("%T: %v", value, err)
		}
	}
}
