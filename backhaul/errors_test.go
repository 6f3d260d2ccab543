package backhaul

import (
	"context"
	"errors"
	"fmt"
	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/pool"
	"github.com/ebbkit/ebb/balance"
)

// startFailed is an error as a waiting room returns it.
type startFailed struct{}

func (startFailed) Error() string { return "machine m1 did not start: exit status 3" }

func (startFailed) RetryAfter() time.Duration { return 2500 * time.Millisecond }

func (startFailed) Cause() string { return "start-failed" }

// unknownHost is what a user's Route may return.
type unknownHost struct{}

func (unknownHost) Error() string { return "no such host" }

func (unknownHost) StatusCode() int { return 404 }

func TestErrorHandler(t *testing.T) {
	full := &balance.NoMachineError{App: "web", Seen: 2, Full: 2, After: 100 * time.Millisecond}
	machine := func(f Failure) error {
		return &MachineError{
			App: "web", Machine: "m1", Failure: f, Tries: 1, Err: errors.New("broken pipe"),
		}
	}
	for _, tt := range []struct {
		err    error
		status int
		retry  string
		cause  string
		text   string
	}{
		{&UnavailableError{App: "web", Err: full, Bounces: 3}, 503, "1", "full", "2 at the hard limit (after 3 bounces)"},
		{&UnavailableError{App: "web", Err: &balance.NoMachineError{App: "web", Seen: 1, Stopped: 1}}, 503, "1", "no-machine", "1 stopped"},
		{&UnavailableError{App: "web", Err: fmt.Errorf("%w: web", balance.ErrNoApp)}, 404, "", "no-app", "unknown app"},
		{&UnavailableError{App: "web", Err: startFailed{}}, 503, "3", "start-failed", "exit status 3"},
		{&UnavailableError{App: "web", Bounces: 64}, 503, "1", "full", "64 machines refused"},
		{fmt.Errorf("wrapped: %w", &UnavailableError{Err: startFailed{}}), 503, "3", "start-failed", "exit status 3"},
		{full, 503, "1", "full", "hard limit"},
		{machine(hop.FailureReset), 502, "", "machine", `machine "m1" of app "web": reset (maybe executed): broken pipe`},
		{machine(hop.FailureTimeout), 504, "", "timeout", "timeout"},
		{context.DeadlineExceeded, 504, "", "timeout", "deadline"},
		{&pool.BodyError{Err: errors.New("unexpected EOF")}, 400, "", "bad-request", "unexpected EOF"},
		{&pool.BodyError{Err: &http.MaxBytesError{Limit: 10}}, 413, "", "too-large", "too large"},
		{unknownHost{}, 404, "", "bad-request", "no such host"},
		{errors.New("boom"), 502, "", "internal", "boom"},
	} {
		for _, details := range []bool{false, true} {
			w := httptest.NewRecorder()
			e := ErrorHandler{CauseHeader: "X-Cause", Details: details}
			e.ServeError(w, httptest.NewRequest("GET", "/", nil), tt.err)
			h := w.Header()
			if w.Code != tt.status || h.Get("Retry-After") != tt.retry || h.Get("X-Cause") != tt.cause ||
				h.Get("Cache-Control") != "no-store" {
				t.Errorf("%v: got %d %v", tt.err, w.Code, h)
			}
			if got := strings.Contains(w.Body.String(), tt.text); got != details {
				t.Errorf("%v: details=%v, body %q", tt.err, details, w.Body)
			}
		}
	}
	w := httptest.NewRecorder()
	ErrorHandler{}.ServeError(w, httptest.NewRequest("HEAD", "/", nil), full)
	if w.Code != 503 || w.Body.Len() != 0 {
		t.Errorf("HEAD: %d, %q", w.Code, w.Body)
	}
	ctx, leave := context.WithCancel(t.Context())
	leave()
	w = httptest.NewRecorder()
	ErrorHandler{}.ServeError(
		w, httptest.NewRequest("GET", "/", nil).WithContext(ctx), context.Canceled,
	)
	if w.Code != 499 || w.Body.Len() != 0 {
		t.Errorf("client gone: %d, %q", w.Code, w.Body)
	}
}
