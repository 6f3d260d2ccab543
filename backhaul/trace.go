package backhaul

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/enum"
)

// Trace observes requests. Any of its functions may be nil. They are called with no lock held, from
// many goroutines at once, and get values only; they should return soon.
type Trace struct {
	// Event is called for each [Event], on the goroutine that calls RoundTrip or serves the request.
	// An EventFree comes on a goroutine of its own, and perhaps long after Done.
	Event func(Event)
	// Done is called once for each request of a [Transport] when it is over: answered to the last
	// byte, failed, or abandoned. It runs on the goroutine that ends the answer's body, or on one of
	// the Transport's where the client has stalled.
	Done func(Done)
	// Trail is called after Done with the whole way of a request that failed, was retried after a
	// failure, or was slow (1 s to its head), and of one in 1000 of the rest.
	Trail func(Trail)
}

// EventKind says what happened, and which fields of an [Event] tell more. It has the methods
// String, MarshalText and UnmarshalText.
type EventKind uint8

// The kinds of events.
const (
	// EventPick: a machine was acquired and is about to be tried; Took is the wait for it.
	EventPick EventKind = iota
	// EventBounce: the machine's owner refused the request. Bounce and Load say why; Load is zero
	// where the owner sent none.
	EventBounce
	// EventRetry: the try failed without harm, and another one follows. See Failure and Err.
	EventRetry
	// EventFail: the try failed, and the request ends with it; from a [Handler], an admitted request
	// got no answer from its machine. See Failure and Err.
	EventFail
	// EventPause: every machine that may be tried has been; after Took a new round begins.
	EventPause
	// EventAnswer: the head of the answer is here.
	EventAnswer
	// EventFree: the slot of a request whose client has left is free. Freed says how that came about,
	// and Took for how long the slot was held after the client had left.
	EventFree
	// EventDeny: a [Handler] refused a connection because it could not authenticate the other end.
	// Err is a [*net.OpError] with the address. Anybody who can connect can cause one.
	EventDeny
)

var eventNames = [...]string{"pick", "bounce", "retry", "fail", "pause", "answer", "free", "deny"}

// String returns the kind's name.
func (k EventKind) String() string { return enum.String(eventNames[:], uint8(k), "event") }

// MarshalText returns the kind's name.
func (k EventKind) MarshalText() ([]byte, error) {
	return enum.Marshal("backhaul: kind of event", eventNames[:], uint8(k))
}

// UnmarshalText is the inverse of [EventKind.MarshalText].
func (k *EventKind) UnmarshalText(text []byte) error {
	return enum.Unmarshal(k, "backhaul: kind of event", eventNames[:], text)
}

// Event is one thing that happened to a request or, where the kind is EventDeny, to a connection.
// A [Transport] tells events of the requests it sends, a [Handler] those of the requests it serves:
// EventBounce, EventFail, EventFree and EventDeny.
type Event struct {
	Kind    EventKind
	App     balance.AppID
	Machine balance.MachineID
	// Node is the machine's owner in the events of a Transport, and the edge that sent the request in
	// those of a Handler.
	Node balance.NodeID
	At   time.Duration // since the request came; 0 in the events of a Handler
	Took time.Duration // since the try began, if the kind does not say otherwise; 0 in a Handler's

	Bounce balance.Bounce
	Load   balance.Load
	// Ready are machines of the app that, as the owner who refused knows, are ready: up to three, with
	// ID, App and Owner, where the bounce says that the machine is stopped, closing or not there.
	Ready   []balance.Machine
	Failure Failure
	Freed   Freed
	Err     error
}

// Done is a request at its end, for metrics by app, status and cause. Requests that nothing served
// have one as well.
type Done struct {
	// App is what Config.Route said; empty when it returned an error. When Cause is "no-app" it is
	// whatever the client asked for: no label for a metric.
	App     balance.AppID
	Machine balance.MachineID // the last one that was tried; empty when none was found
	Method  string
	// Context is that of the request, with the values that middleware has put there; it may have
	// ended.
	Context context.Context

	// Outcome is OutcomeError also when the machine answered that it failed: see Config.Failed.
	Outcome balance.Outcome
	// Status is what the client was answered: the machine's status, else that of [ErrorHandler].
	// 499 when the client left before an answer; 0 when RoundTrip panicked.
	Status int
	// Cause says in one word why there was no answer or why it broke off. It is empty when the
	// machine answered to the end, whatever its status. A [Picker]'s error may bring its own, by a
	// method Cause() string; so may an error of Config.Route. The others are:
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
	Cause string
	Err   error // what RoundTrip returned, or what broke the answer off
	Tries int   // how many machines were tried

	Waited time.Duration // in the Picker, all tries together
	First  time.Duration // from the start to the answer's head; 0 when there was none
	// Upload is the time from the start to the end of the request's body; 0 when there was none, or
	// its end was not read.
	Upload time.Duration
	Total  time.Duration // from the start to the end of the answer's body

	// Sent counts the bytes of the request's body that were read from the client, and what it sent
	// over an upgraded connection.
	Sent     int64
	Received int64 // bytes of the answer's body, or from an upgraded connection

	failures int // failed tries
}

// Freed says how the slot of a request whose client has left became free. Its name is one of
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
	Done Done
	Path string
	// Trace is the request's traceparent header (W3C Trace Context), which is passed on; empty where
	// it had none.
	Trace   string
	Begun   time.Time
	Events  []Event // at most 256, the first ones
	Sampled bool    // it was neither slow nor failed, and stands for 1000 like it
}

// maxEvents bounds a trail: a request that waits for minutes has more to tell than anyone reads.
const maxEvents = 256

// wanted decides at a request's end whether its trail is told: always if it failed, was retried
// after a failure, or was slow; of the others one in sample is drawn by random bits.
func wanted(d Done, slow time.Duration, sample int, random uint64) (want, sampled bool) {
	took := d.First // a long download or an open WebSocket is not slow
	if took == 0 {
		took = d.Total
	}
	failed := d.Err != nil || d.failures > 0 || d.Outcome == balance.OutcomeError ||
		d.Outcome == balance.OutcomeBounced
	if failed || slow > 0 && took >= slow {
		return true, false
	}
	return sample > 0 && random%uint64(sample) == 0, true
}

const headerTrace = "Traceparent"

// recorder tells the events of a request, and keeps them where somebody wants its trail.
type recorder struct {
	q      *roundTrip
	events []Event
	trace  string // the traceparent
}

func (r *recorder) begin() {
	if v := r.q.req.Header[headerTrace]; len(v) > 0 {
		r.trace = v[0]
	}
}

// event tells of the present try.
func (r *recorder) event(e Event) {
	trace := &r.q.t.c.Trace
	if trace.Event == nil && trace.Trail == nil {
		return
	}
	e.App, e.Machine, e.Node = r.q.want.App, r.q.try.info.machine, r.q.try.info.owner
	now := time.Now()
	e.At = now.Sub(r.q.times.start)
	if e.Took == 0 {
		e.Took = now.Sub(r.q.try.tried)
	}
	if trace.Trail != nil && len(r.events) < maxEvents {
		r.events = append(r.events, e)
	}
	if trace.Event != nil {
		trace.Event(e)
	}
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
		Done: d, Trace: r.trace, Begun: r.q.times.start, Events: r.events, Sampled: sampled,
	}
	if r.q.req.URL != nil {
		t.Path = r.q.req.URL.Path
	}
	hook(t)
}
