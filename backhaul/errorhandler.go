package backhaul

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/pool"
	"github.com/ebbkit/ebb/balance"
)

// ErrorConfig configures [NewErrorHandler]. The zero value is valid.
type ErrorConfig struct {
	// CauseHeader names a header of the answer that gets the cause in one word, such as "X-Proxy-Cause"; empty means none.
	CauseHeader string
	// Details adds the error itself to the answer's body. It names machines, nodes and addresses, and says what a failed
	// start wrote: for development, on listeners that only developers reach. Without it [Trace].Done is where it is told.
	Details bool
}

// ErrorHandler answers for a request that could not be served, with what a [Transport] returned. It has the shape of
// [net/http/httputil.ReverseProxy]'s ErrorHandler. The answer is plain text and never cached; it says what a client can do,
// and nothing of what is behind the proxy.
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
func ErrorHandler(w http.ResponseWriter, r *http.Request, err error) { ErrorConfig{}.answer(w, r, err) }

// NewErrorHandler returns an [ErrorHandler] with other settings.
func NewErrorHandler(c ErrorConfig) func(http.ResponseWriter, *http.Request, error) { return c.answer }

// statusClientGone is what nginx writes to its log when the client has left.
const statusClientGone = 499

func (c ErrorConfig) answer(w http.ResponseWriter, r *http.Request, err error) {
	status, cause := Classify(r, err)
	h := w.Header()
	if c.CauseHeader != "" {
		h.Set(c.CauseHeader, cause)
	}
	if status == statusClientGone {
		w.WriteHeader(status)
		return
	}
	if status == http.StatusRequestTimeout || cause == CauseTimeout {
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
	case status == http.StatusRequestTimeout && cause == CauseStalled:
		text += ": too little came of the request's body; the connection is closed"
	case status == http.StatusGatewayTimeout:
		text += ": no answer in time; the request may have been executed"
	case cause == CauseMachine:
		text += ": the app did not answer properly; the request may have been executed"
	}
	return text + "\n"
}

// Classify returns the status that [ErrorHandler] answers with to r when RoundTrip returned err, and the cause in one word.
func Classify(r *http.Request, err error) (status int, cause string) {
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
		return http.StatusRequestEntityTooLarge, CauseTooLarge
	case errors.As(err, &coded) && coded.StatusCode() >= 400 && coded.StatusCode() < 600:
		return coded.StatusCode(), cmp.Or(cause, CauseRequest)
	case body:
		return http.StatusBadRequest, CauseRequest
	case errors.Is(err, balance.ErrNoApp):
		return http.StatusNotFound, CauseNoApp
	case failed && machine.unsent():
		return http.StatusServiceUnavailable, cause
	case failed && machine.Timeout(), !unavailable && errors.Is(err, context.DeadlineExceeded):
		return http.StatusGatewayTimeout, CauseTimeout
	case unavailable, errors.Is(err, balance.ErrNoMachine):
		if cause == "" {
			cause = (&UnavailableError{Err: err}).Cause()
		}
		return http.StatusServiceUnavailable, cause
	case failed:
		return http.StatusBadGateway, cause
	}
	return http.StatusBadGateway, cmp.Or(cause, CauseInternal)
}

func retryAfter(err error) time.Duration {
	var r interface{ RetryAfter() time.Duration }
	if errors.As(err, &r) {
		return r.RetryAfter()
	}
	return 0
}

func wholeSeconds(d time.Duration) int { return int(max(1, (d+time.Second-1)/time.Second)) }
