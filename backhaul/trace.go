package backhaul

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/enum"
)

// Trace are functions that a [Transport] calls as requests make their way. Any may be nil. They are
// called with no lock held, on the goroutine that calls RoundTrip, and Done on the one that ends
// the answer's body, or on one of ours where the client has stalled; they get values only and
// should return soon. Requests call them concurrently.
type Trace struct {
	Try    func(Try)     // a machine has been acquired and is about to be tried
	Bounce func(Bounced) // the owner refused
	Retry  func(Retried) // a try failed and another follows
	// the request is over: answered to the last byte, failed, or abandoned; once per request
	Done func(Done)
	// Abandoned is called when the slot of a request that its client has left is free: on a
	// goroutine of its own, and perhaps long after Done. It tells of machines of this process.
	Abandoned func(Abandoned)
	// after Done, the whole way of a request that failed, was retried after a failure, or was slow
	// (1 s to its head), and of one in 1000 of the rest
	Trail func(Trail)
}

// Try is one try of one request.
type Try struct {
	App     balance.AppID
	Machine balance.MachineID
	Owner   balance.NodeID
	Region  string
	N       int           // counts the tries of the request, from 1
	Local   bool          // the machine is this process's own: there is no hop
	Waited  time.Duration // what acquiring the machine took
}

// Bounced is a try that its owner refused.
type Bounced struct {
	Try    Try
	Reason balance.Bounce
	Load   balance.Load // as the owner sent it; zero when it sent none
	Took   time.Duration
}

// Retried is a try that failed without harm.
type Retried struct {
	Try     Try
	Failure Failure
	Err     error
	Took    time.Duration
}

// Done is a request at its end. It has all that metrics by app, status and cause need, also of
// requests that nothing served.
type Done struct {
	// App is what Config.Route said; empty when it returned an error. When Cause is [CauseNoApp] it is
	// what the client asked for, whatever that was: no label for a metric.
	App    balance.AppID
	Method string
	Host   string // as the client asked for it
	// the request's, with the values that middleware has put there; it may have ended
	Context context.Context

	Try     Try             // the last one; zero when no machine was found
	Outcome balance.Outcome // errored also when the machine answered that it failed: see Config.Failed
	// Status is what the client was answered: the machine's status, else what
	// [ErrorHandler] answers. 499 when the client left before an answer; 0 when RoundTrip panicked.
	Status int
	// Cause says in one word why there was no answer or why it broke off; empty when the machine
	// answered to the end, whatever its status. It is for metrics, logs and the header of causes. A
	// [Picker]'s error may bring its own, by a method Cause() string; so may an error of
	// Config.Route. The others are:
	//
	//	no-app       the fleet does not know the app
	//	no-machine   no machine can take the request
	//	full         every machine is at its hard limit
	//	machine      the machine, or the way to it, failed
	//	timeout      no answer in time, or the request's own deadline passed
	//	bad-request  the client's body broke off, or the request is not served
	//	too-large    the client's body is larger than a limit set before
	//	limit        this node, or the machine's owner, has no more descriptors, memory or ports
	//	client       the client left
	//	stalled      the client sent no body, or read no answer, for too long
	//	internal     a fault of the proxy's set-up
	Cause    string
	Err      error // what RoundTrip returned, or what broke the answer off
	Tries    int
	Bounces  int
	Failures int
	Waited   time.Duration // in the Picker, all tries together
	First    time.Duration // from the start to the answer's head; 0 when there was none
	Total    time.Duration // from the start to the end of the answer's body
	// from the start to the end of the request's body; 0 when there was none, or its end was not read
	Upload   time.Duration
	Download time.Duration // from the answer's head to the end of its body
	// bytes of the request's body that were read from the client, and of an upgraded connection
	Sent     int64
	Received int64 // bytes of the answer's body, or from an upgraded connection
}

// Abandoned is a request that its client has left before the machine had answered, at the time when
// its slot is free.
type Abandoned struct {
	App     balance.AppID
	Machine balance.MachineID
	Node    balance.NodeID // the edge that sent it
	Epoch   uint64
	Freed   Freed
	Held    time.Duration // since the client left
}

// HandlerTrace are functions that a [Handler] calls, as those of [Trace].
type HandlerTrace struct {
	Bounce func(Refused) // a request was refused
	Fault  func(Faulted) // a machine failed
	Denied func(Denied)  // a connection was refused, as nobody of the cluster is there
	// Abandoned is called when the slot of a request that its client has left is free.
	Abandoned func(Abandoned)
}

// Refused is a request that a [Handler] bounced.
type Refused struct {
	App     balance.AppID
	Machine balance.MachineID
	Node    balance.NodeID // the edge that sent it
	Reason  balance.Bounce
	Load    balance.Load
}

// Faulted is an admitted request that its machine did not answer. With [FailureLimit] and
// [FailureDeadline] that is not the machine's fault.
type Faulted struct {
	App     balance.AppID
	Machine balance.MachineID
	Node    balance.NodeID
	Epoch   uint64
	Failure Failure
	Err     error
}

// Denied is a connection that a [Handler] did not accept. Anybody who can connect can cause one.
type Denied struct {
	Addr string // of the other end
	Err  error
}

// Certainty says how far a try that brought no answer got. It rules what may be tried again: see
// the package comment. It has the methods String, MarshalText and UnmarshalText.
type Certainty = hop.Certainty

// The certainties, from the one that allows everything to the one that allows nothing.
const (
	// no byte of the request left for whoever would execute it
	CertaintyNotSent = hop.CertaintyNotSent
	// it was received, and by the owner's word or ours the machine never saw it
	CertaintyNotExecuted = hop.CertaintyNotExecuted
	// it was sent; whether the machine acted on it nobody knows
	CertaintyMaybeExecuted = hop.CertaintyMaybeExecuted
	// the machine answered; the answer broke off or could not be used
	CertaintyResponded = hop.CertaintyResponded
)

// Failure says how a try failed. Its method Certainty says how far such a try got; String,
// MarshalText and UnmarshalText are its names in logs and metrics. A bounce is no failure: see
// [balance.Bounce].
type Failure = hop.Failure

// The failures, with the certainty of each.
const (
	// it did not fail
	FailureNone = hop.FailureNone
	// no connection to the owner or the machine: refused, timed out, cut while connecting (not sent)
	FailureDial = hop.FailureDial
	// a pooled connection was dead before anything was written; another connection is taken, and it
	// counts for nothing (not sent)
	FailureStale = hop.FailureStale
	// a new connection died before anything was written (not sent)
	FailureUnsent = hop.FailureUnsent
	// the owner and this node do not accept each other's key or certificate (not executed)
	FailureDenied = hop.FailureDenied
	// the connection died while the body still waited for the owner's word (not executed)
	FailureUnread = hop.FailureUnread
	// the connection died after the request was written, before the answer's head was complete
	// (maybe executed)
	FailureReset = hop.FailureReset
	// no answer's head in time (maybe executed)
	FailureTimeout = hop.FailureTimeout
	// the answer's head is not HTTP, or larger than allowed (responded)
	FailureMalformed = hop.FailureMalformed
	// the answer broke off after its head (responded)
	FailureAnswer = hop.FailureAnswer
	// the client left, or its body broke off: nobody is there to retry for (maybe executed)
	FailureClient = hop.FailureClient
	// the peer says that it did not process the stream: GOAWAY, REFUSED_STREAM (not executed)
	FailureRefused = hop.FailureRefused
	// a limit of this node or the owner, not of the machine: no descriptor, memory or port, or the
	// request's own deadline passed before it was sent (not sent)
	FailureLimit = hop.FailureLimit
	// the request's own deadline passed after it was sent (maybe executed)
	FailureDeadline = hop.FailureDeadline
)

// Stall says what a request was waiting for when it was ended for want of progress. It has the
// methods String, MarshalText and UnmarshalText.
type Stall = hop.Stall

// The stalls. Each has a bound in the app's row.
const (
	// the client sent nothing of a body, or next to nothing: balance.App.BodyPause
	StallBody = hop.StallBody
	// the client read nothing of the answer: balance.App.AnswerPause
	StallAnswer = hop.StallAnswer
	// the machine did not answer: balance.App.UpgradeWait
	StallUpgrade = hop.StallUpgrade
)

// Freed says how the slot of a request that its client has left became free. Its name is one of
//
//	answered  the machine has answered, for nobody
//	closed    it closed the connection, or was cut off; then the slot was held for a time
//	silent    nothing was heard of it for as long as that may be
//	ended     its run has ended: it was stopped, or has failed
//	shutdown  this side has been closed
//
// Only with "answered" and "ended" the machine was done for certain. It has the methods String,
// MarshalText and UnmarshalText.
type Freed = hop.Freed

// Trail is the whole way of one request: what happened, in order, and when.
type Trail struct {
	Done   Done
	Method string
	Path   string
	// Trace is the request's traceparent header (W3C Trace Context): passed on as it came, or made
	// where it was missing and Config.MakeTrace is set. Empty means none.
	Trace string
	Begun time.Time
	Steps []Step
	// Sampled says that the request was neither slow nor failed: it stands for 1000.
	Sampled bool
}

// StepKind says what a step of a [Trail] is.
type StepKind uint8

// The kinds of steps.
const (
	StepPick   StepKind = iota // a machine was acquired; Took is what that took, waiting included
	StepBounce                 // its owner refused; Reason and Load say why
	StepFail                   // the try failed; Failure and Err say how
	StepPark                   // every machine that could be tried has been: a pause, and a new round
	StepHead                   // the answer's head is here
	StepEnd                    // the request is over
)

var stepNames = [...]string{"pick", "bounce", "fail", "park", "head", "end"}

// MarshalText returns the kind's name.
func (k StepKind) MarshalText() ([]byte, error) {
	return enum.Marshal("backhaul: kind of step", stepNames[:], uint8(k))
}

// UnmarshalText is the inverse of [StepKind.MarshalText].
func (k *StepKind) UnmarshalText(text []byte) error {
	return enum.Unmarshal(k, "backhaul: kind of step", stepNames[:], text)
}

// String returns the kind's name.
func (k StepKind) String() string { return enum.String(stepNames[:], uint8(k), "step") }

// Step is one event on the way of a request.
type Step struct {
	Kind    StepKind
	At      time.Duration // since the request came
	Took    time.Duration // of picks, tries and pauses
	Try     Try           // zero before the first pick
	Reason  balance.Bounce
	Load    balance.Load
	Failure Failure
	Err     error
}

// maxSteps bounds a trail: a request that parks for minutes has more to tell than anyone reads. The
// first ones and the end are kept.
const maxSteps = 256

// wanted decides about a request at its end: failed and slow ones always, of the others one in
// sample, drawn by random bits.
func wanted(d Done, slow time.Duration, sample int, random uint64) (want, sampled bool) {
	took := d.First // a long download or an open WebSocket is not slow
	if took == 0 {
		took = d.Total
	}
	failed := d.Err != nil || d.Failures > 0 || d.Outcome == balance.OutcomeError ||
		d.Outcome == balance.OutcomeBounced
	if failed || slow > 0 && took >= slow {
		return true, false
	}
	return sample > 0 && random%uint64(sample) == 0, true
}

const headerTrace = "Traceparent"

// recorder keeps the steps of a request where somebody wants a trail.
type recorder struct {
	q     *roundTrip
	steps []Step
	trace string // the traceparent
	made  bool   // by us
}

// traced finds the request's trace, or makes one.
func (r *recorder) begin() {
	if v := r.q.req.Header[headerTrace]; len(v) > 0 {
		r.trace = v[0]
		return
	}
	if r.q.t.c.MakeTrace {
		// Neither half may be zero.
		r.trace = fmt.Sprintf("00-%016x%016x-%016x-00", rand.Uint64(), rand.Uint64()|1, rand.Uint64()|1)
		r.made = true
	}
}

// step notes what happens, where somebody may want to hear of it.
func (r *recorder) step(s Step) {
	if r.q.t.c.Trace.Trail == nil || len(r.steps) >= maxSteps {
		return
	}
	s.At = time.Since(r.q.times.start)
	r.steps = append(r.steps, s)
}

// tell tells the way of a request that is over.
func (r *recorder) tell(d Done) {
	hook := r.q.t.c.Trace.Trail
	if hook == nil {
		return
	}
	want, sampled := wanted(d, r.q.t.c.slow, r.q.t.c.sample, rand.Uint64())
	if !want {
		return
	}
	t := Trail{
		Done: d, Method: r.q.req.Method, Trace: r.trace, Begun: r.q.times.start, Sampled: sampled,
	}
	if r.q.req.URL != nil {
		t.Path = r.q.req.URL.Path
	}
	t.Steps = append(
		r.steps, Step{Kind: StepEnd, At: d.Total, Took: d.Download, Try: d.Try, Err: d.Err},
	)
	hook(t)
}
