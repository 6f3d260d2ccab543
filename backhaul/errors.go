package backhaul

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/pool"
	"github.com/ebbkit/ebb/backhaul/internal/tcp"
	"github.com/ebbkit/ebb/balance"
)

// ErrorConfig configures [NewErrorHandler]. The zero value is valid.
type ErrorConfig struct {
	// CauseHeader names a header of the answer that gets the cause in one word, such as
	// "X-Proxy-Cause"; empty means none.
	CauseHeader string
	// Details adds the error itself to the answer's body. It names machines, nodes and addresses, and
	// says what a failed start wrote: for development, on listeners that only developers reach.
	// Without it [Trace].Done is where it is told.
	Details bool
}

// ErrorHandler answers for a request that could not be served, with what a [Transport] returned. It
// has the shape of [net/http/httputil.ReverseProxy]'s ErrorHandler. The answer is plain text and
// never cached; it says what a client can do, and nothing of what is behind the proxy.
//
//	[*UnavailableError]                503, Retry-After in whole seconds, at least 1
//	that of an unknown app             404
//	[*MachineError], not executed      503, Retry-After
//	that of no answer in time          504
//	any other                          502
//	the context's deadline             504
//	a [*StallError]                    408 where a body did not come, 504 where no upgrade did
//	the client's body broke off        400, or 413 when it is a [*net/http.MaxBytesError]
//	an error with StatusCode() int     that status: what [Config].Route may say of an unknown host
//	the client has left                499 without a body, for the log's sake: nobody reads it
//	anything else                      502
func ErrorHandler(
	w http.ResponseWriter, r *http.Request, err error,
) {
	ErrorConfig{}.answer(w, r, err)
}

// NewErrorHandler returns an [ErrorHandler] with other settings.
func NewErrorHandler(
	c ErrorConfig,
) func(http.ResponseWriter, *http.Request, error) {
	return c.answer
}

// statusClientGone is what nginx writes to its log when the client has left.
const statusClientGone = 499

func (c ErrorConfig) answer(w http.ResponseWriter, r *http.Request, err error) {
	status, cause := classify(r, err)
	h := w.Header()
	if c.CauseHeader != "" {
		h.Set(c.CauseHeader, cause)
	}
	if status == statusClientGone {
		w.WriteHeader(status)
		return
	}
	if status == http.StatusRequestTimeout || cause == causeTimeout {
		hangUp(w, r)
	}
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Del("Content-Length")
	after := 0
	if status == http.StatusServiceUnavailable {
		after = wholeSeconds(retryAfter(err))
		h.Set("Retry-After", strconv.Itoa(after))
	}
	w.WriteHeader(status)
	if r.Method == http.MethodHead {
		return
	}
	text := advice(status, cause, after)
	if c.Details {
		text += err.Error() + "\n"
	}
	w.Write([]byte(text))
}

// hangUp ends a read of the request's body that may still be waiting for a client, and the
// connection after the answer: else net/http writes no answer over HTTP/1.1 before that read has
// returned.
func hangUp(w http.ResponseWriter, r *http.Request) {
	if r.Body == nil || r.Body == http.NoBody {
		return
	}
	if r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close")
	}
	c := http.NewResponseController(w)
	c.SetReadDeadline(time.Unix(1, 0)) //nolint:errcheck // where that cannot be had, it waits
}

// advice is what a client reads: what happened as far as it matters there, and what can be done.
func advice(status int, cause string, after int) string {
	text := http.StatusText(status)
	switch {
	case status == http.StatusServiceUnavailable:
		text += fmt.Sprintf(": the request was not served; try again in %d s", after)
	case cause == CauseNoApp:
		text += ": there is no such app here"
	case status == http.StatusRequestTimeout && cause == causeStalled:
		text += ": too little came of the request's body; the connection is closed"
	case status == http.StatusGatewayTimeout:
		text += ": no answer in time; the request may have been executed"
	case cause == causeMachine:
		text += ": the app did not answer properly; the request may have been executed"
	}
	return text + "\n"
}

// classify returns the status that [ErrorHandler] answers with to r when RoundTrip returned err,
// and the cause in one word.
func classify(r *http.Request, err error) (status int, cause string) {
	var caused interface{ Cause() string }
	if errors.As(err, &caused) {
		cause = caused.Cause()
	}
	var coded interface{ StatusCode() int }
	_, unavailable := errors.AsType[*UnavailableError](err)
	machine, failed := errors.AsType[*MachineError](err)
	_, tooLarge := errors.AsType[*http.MaxBytesError](err)
	_, body := errors.AsType[*pool.BodyError](err)
	switch {
	case errors.Is(r.Context().Err(), context.Canceled):
		return statusClientGone, CauseClient
	case tooLarge:
		return http.StatusRequestEntityTooLarge, causeTooLarge
	case errors.As(err, &coded) && coded.StatusCode() >= 400 && coded.StatusCode() < 600:
		return coded.StatusCode(), cmp.Or(cause, causeRequest)
	case body:
		return http.StatusBadRequest, causeRequest
	case errors.Is(err, balance.ErrNoApp):
		return http.StatusNotFound, CauseNoApp
	case failed && machine.unsent():
		return http.StatusServiceUnavailable, cause
	case failed && machine.Timeout(), !unavailable && errors.Is(err, context.DeadlineExceeded):
		return http.StatusGatewayTimeout, causeTimeout
	case unavailable, errors.Is(err, balance.ErrNoMachine):
		if cause == "" {
			cause = (&UnavailableError{Err: err}).Cause()
		}
		return http.StatusServiceUnavailable, cause
	case failed:
		return http.StatusBadGateway, cause
	}
	return http.StatusBadGateway, cmp.Or(cause, causeInternal)
}

func retryAfter(err error) time.Duration {
	var r interface{ RetryAfter() time.Duration }
	if errors.As(err, &r) {
		return r.RetryAfter()
	}
	return 0
}

func wholeSeconds(d time.Duration) int { return int(max(1, (d+time.Second-1)/time.Second)) }

// Two of the causes, to branch on: see [Done].Cause.
const (
	CauseNoApp  = "no-app" // the fleet does not know the app
	CauseClient = "client" // the client left
)

const (
	causeNoMachine = "no-machine"
	causeFull      = "full"
	causeMachine   = "machine"
	causeTimeout   = "timeout"
	causeRequest   = "bad-request"
	causeTooLarge  = "too-large"
	causeLimit     = "limit"
	causeStalled   = "stalled"
	causeInternal  = "internal"
)

// UnavailableError says that no machine took a request: 503, come back after RetryAfter; or 404,
// when the fleet does not know the app.
type UnavailableError struct {
	App     balance.AppID
	Tries   int   // how many machines were tried before
	Bounces int   // how many of them refused
	Err     error // what the [Picker] said; where there is none, the budget of bounces is spent
}

// Error says why, for people who run the app.
func (e *UnavailableError) Error() string {
	switch {
	case e.Err == nil:
		return fmt.Sprintf("backhaul: app %q is busy: %d machines refused the request", e.App, e.Bounces)
	case e.Bounces > 0:
		return fmt.Sprintf("%v (after %d bounces)", e.Err, e.Bounces)
	}
	return e.Err.Error()
}

// Unwrap returns Err.
func (e *UnavailableError) Unwrap() error { return e.Err }

// RetryAfter returns what the Picker's error said, or a second.
func (e *UnavailableError) RetryAfter() time.Duration {
	var r interface{ RetryAfter() time.Duration }
	if e.Err != nil && errors.As(e.Err, &r) && r.RetryAfter() > 0 {
		return r.RetryAfter()
	}
	return time.Second
}

// Cause returns the cause in one word.
func (e *UnavailableError) Cause() string {
	var c interface{ Cause() string }
	switch {
	case e.Err == nil:
		return causeFull
	case tcp.IsTimeout(e.Err):
		return causeTimeout
	case errors.As(e.Err, &c):
		return c.Cause()
	case errors.Is(e.Err, balance.ErrNoApp):
		return CauseNoApp
	case errors.Is(e.Err, balance.ErrFull):
		return causeFull
	}
	return causeNoMachine
}

// MachineError says that a machine, or the way to it, failed and that the request may not or cannot
// be tried again. By the certainty of its Failure: 503 when the machine has not seen the request,
// come back after RetryAfter; else 502, or 504 when there was no answer in time. With
// [FailureLimit], [FailureDeadline] and [FailureDenied] it is not the machine that failed: the last
// is between its owner and this node, and says that one of them is not set up right. It counts
// against the machine all the same where this node picks, and nowhere else: else machines that
// nobody gets to would look idle, and attract every request.
type MachineError struct {
	App     balance.AppID
	Machine balance.MachineID
	Owner   balance.NodeID
	Failure Failure
	Tries   int
	Err     error
}

// Error names the machine and says what happened to it.
func (e *MachineError) Error() string {
	return fmt.Sprintf(
		"backhaul: machine %q of app %q: %s (%s): %v", e.Machine, e.App, e.Failure, e.Failure.Certainty(),
		e.Err,
	)
}

// Unwrap returns Err.
func (e *MachineError) Unwrap() error { return e.Err }

// Timeout reports whether the machine did not answer in time.
func (e *MachineError) Timeout() bool {
	return e.Failure == hop.FailureTimeout || e.Failure == hop.FailureDeadline
}

// unsent reports whether the machine has not seen the request.
func (e *MachineError) unsent() bool { return e.Failure.Certainty() <= hop.CertaintyNotExecuted }

// RetryAfter returns a second where the machine has not seen the request, else 0: it may have been
// executed.
func (e *MachineError) RetryAfter() time.Duration {
	if e.unsent() {
		return time.Second
	}
	return 0
}

// Cause returns the cause in one word.
func (e *MachineError) Cause() string {
	switch {
	case e.Timeout(), e.Failure == hop.FailureLimit && tcp.IsTimeout(e.Err):
		return causeTimeout
	case e.Failure == hop.FailureLimit:
		return causeLimit
	case e.Failure == hop.FailureDenied:
		return causeInternal
	}
	return causeMachine
}

// methodError refuses a method.
type methodError string

const errConnect = methodError(
	"backhaul: CONNECT is not served: an app is reached by its requests, not through a tunnel",
)

func (e methodError) Error() string { return string(e) }

func (methodError) StatusCode() int { return 501 }

func (methodError) Cause() string { return causeRequest }

// ownerError is a failure as a machine's owner tells of it.
type ownerError struct {
	owner balance.NodeID
	words string
}

func (e *ownerError) Error() string { return fmt.Sprintf("owner %q says: %s", e.owner, e.words) }

// Failed is the default of [Config].Failed: status 500, 502, 503 without Retry-After and 504, and
// gRPC's status UNAVAILABLE (14) in the head or in the trailer. An answer 503 with Retry-After is a
// machine that is well and sheds load; other codes of gRPC tell of the request.
func Failed(status int, h http.Header) bool {
	switch status {
	case http.StatusInternalServerError, http.StatusBadGateway, http.StatusGatewayTimeout:
		return true
	case http.StatusServiceUnavailable:
		return len(h["Retry-After"]) == 0
	}
	code := h["Grpc-Status"]
	return len(code) == 1 && code[0] == grpcUnavailable
}

const grpcUnavailable = "14"

// StallError says that a request was ended because nothing had moved for as long as its app allows.
// It is no fault of the machine. Of a body it becomes 408, of an upgrade 504; an answer that nobody
// reads just breaks off.
type StallError struct {
	App   balance.AppID
	Stall Stall
	After time.Duration // the bound that has passed
}

// Error says what did not move.
func (e *StallError) Error() string {
	what := "the client sent nothing of the request's body, or next to nothing,"
	switch e.Stall {
	case StallAnswer:
		what = "the client read nothing of the answer"
	case StallUpgrade:
		what = "the machine did not answer the request for an upgrade"
	}
	return fmt.Sprintf("backhaul: app %q: %s for %v", e.App, what, e.After)
}

// StatusCode returns what the client is answered; 0 when it has been answered already.
func (e *StallError) StatusCode() int {
	switch e.Stall {
	case StallBody:
		return 408
	case StallUpgrade:
		return 504
	}
	return 0
}

// Cause returns the cause in one word.
func (e *StallError) Cause() string {
	if e.Stall == hop.StallUpgrade {
		return causeTimeout
	}
	return causeStalled
}
