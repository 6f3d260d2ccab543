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

// ErrorHandler answers for requests that could not be served. Its method ServeError is for
// [net/http/httputil.ReverseProxy].ErrorHandler. The zero value is ready.
type ErrorHandler struct {
	// CauseHeader names a header of the answer that gets the cause in one word, such as
	// "X-Proxy-Cause"; empty means none.
	CauseHeader string
	// Details adds the error itself to the answer's body. It names machines, nodes and addresses, and
	// says what a failed start wrote: for development, on listeners that only developers reach.
	// Without it, [Done].Err is where to read it.
	Details bool
}

// statusClientGone is what nginx writes to its log when the client has left.
const statusClientGone = 499

// ServeError answers r, for which a [Transport] returned err. The answer is plain text and never
// cached; it says what a client can do, and nothing of what is behind the proxy.
//
//	[*UnavailableError]                503, Retry-After in whole seconds, at least 1
//	that of an unknown app             404
//	[*MachineError], not executed      503, Retry-After
//	that of no answer in time          504
//	any other                          502
//	the context's deadline             504
//	the client's body did not come     408
//	no upgrade came in time            504
//	the client's body broke off        400, or 413 when it is a [*net/http.MaxBytesError]
//	an error with StatusCode() int     that status: what [Config].Route may say of an unknown host
//	the client has left                499 without a body, for the log's sake: nobody reads it
//	anything else                      502
func (c ErrorHandler) ServeError(w http.ResponseWriter, r *http.Request, err error) {
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
	case cause == causeNoApp:
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

// classify returns the status that r is answered with when RoundTrip returned err,
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
		return statusClientGone, causeClient
	case tooLarge:
		return http.StatusRequestEntityTooLarge, causeTooLarge
	case errors.As(err, &coded) && coded.StatusCode() >= 400 && coded.StatusCode() < 600:
		return coded.StatusCode(), cmp.Or(cause, causeRequest)
	case body:
		return http.StatusBadRequest, causeRequest
	case errors.Is(err, balance.ErrNoApp):
		return http.StatusNotFound, causeNoApp
	case failed && !machine.MaybeExecuted():
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

// The causes: see [Done].Cause.
const (
	causeNoApp     = "no-app"
	causeClient    = "client"
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
		return causeNoApp
	case errors.Is(e.Err, balance.ErrFull):
		return causeFull
	}
	return causeNoMachine
}

// Failure says how a try failed. A bounce is no failure: see [balance.Bounce]. The methods String,
// MarshalText and UnmarshalText give its name in logs and metrics: dial, stale, unsent, denied,
// unread, reset, timeout, malformed, answer, client, refused, limit or deadline. The package
// comment tells what each means, and its [Failure.Certainty]: how far such a try got.
type Failure = hop.Failure

// The failures that are not the machine's.
const (
	// the owner and this node do not accept each other's key or certificate
	FailureDenied = hop.FailureDenied
	// a limit of this node or the owner: no descriptor, memory or port, or the request's own deadline
	// passed before it was sent
	FailureLimit = hop.FailureLimit
	// the request's own deadline passed after it was sent
	FailureDeadline = hop.FailureDeadline
)

// MachineError says that a machine, or the way to it, failed and that the request may not or cannot
// be tried again. It becomes 503 where MaybeExecuted is false, else 504 where Timeout is true, else
// 502. With [FailureLimit], [FailureDeadline] and [FailureDenied] it is not the machine that
// failed; the last is between its owner and this node, and says that one of them is not set up
// right. It counts against the machine all the same where this node picks, and nowhere else:
// otherwise machines that nobody reaches would look idle, and attract every request.
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

// MaybeExecuted reports whether the machine may have executed the request. If not, it has not seen
// it.
func (e *MachineError) MaybeExecuted() bool {
	return e.Failure.Certainty() > hop.CertaintyNotExecuted
}

// RetryAfter returns a second where the machine has not seen the request, else 0.
func (e *MachineError) RetryAfter() time.Duration {
	if e.MaybeExecuted() {
		return 0
	}
	return time.Second
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
