package backhaul

import (
	"context"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// Trace are functions that a [Transport] calls as requests make their way. Any may be nil. They are
// called with no lock held, on the goroutine that calls RoundTrip, and Done on the one that ends
// the answer's body, or on one of ours where the client has stalled; they get values only and
// should return soon. Requests call them concurrently.
type Trace struct {
	Try    func(Try)     // a machine has been acquired and is about to be tried
	Bounce func(Bounced) // the owner refused
	Retry  func(Retried) // a try failed and another follows
	Done   func(Done)    // the request is over: answered to the last byte, failed, or abandoned; once per request
	// Abandoned is called when the slot of a request that its client has left is free: on a
	// goroutine of its own, and perhaps long after Done. It tells of machines of this process.
	Abandoned func(Abandoned)
	// after Done, the whole way of a request that failed, was retried after a failure, or was slow
	// (Config.Slow), and of some of the rest
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

// Done is a request at its end. It has all that metrics by app, status and cause need, also of requests that nothing served.
type Done struct {
	// App is what Config.Route said; empty when it returned an error. When Cause is [CauseNoApp] it is what the client asked
	// for, whatever that was: no label for a metric.
	App     balance.AppID
	Method  string
	Host    string          // as the client asked for it
	Context context.Context // the request's, with the values that middleware has put there; it may have ended

	Try     Try             // the last one; zero when no machine was found
	Outcome balance.Outcome // errored also when the machine answered that it failed: see Config.Failed
	// Status is what the client was answered: the machine's status, else what [Classify] says of Err, which is what
	// [ErrorHandler] answers. 499 when the client left before an answer; 0 when RoundTrip panicked.
	Status int
	// Cause says in one word why there was no answer or why it broke off, as [Classify] does; empty when the machine
	// answered to the end, whatever its status.
	Cause    string
	Err      error // what RoundTrip returned, or what broke the answer off
	Tries    int
	Bounces  int
	Failures int
	Waited   time.Duration // in the Picker, all tries together
	First    time.Duration // from the start to the answer's head; 0 when there was none
	Total    time.Duration // from the start to the end of the answer's body
	Upload   time.Duration // from the start to the end of the request's body; 0 when there was none, or its end was not read
	Download time.Duration // from the answer's head to the end of its body
	Sent     int64         // bytes of the request's body that were read from the client, and of an upgraded connection
	Received int64         // bytes of the answer's body, or from an upgraded connection
}

// HandlerTrace are functions that a [Handler] calls, as those of [Trace].
type HandlerTrace struct {
	Bounce func(Refused) // a request was refused
	Fault  func(Faulted) // a machine failed
	Denied func(Denied)  // a connection was refused, as nobody of the cluster is there
	// Abandoned is called when the slot of a request that its client has left is free.
	Abandoned func(Abandoned)
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

// Denied is a connection that a [Handler] did not accept. Anybody who can connect can cause one.
type Denied struct {
	Addr string // of the other end
	Err  error
}

// Refused is a request that a [Handler] bounced.
type Refused struct {
	App     balance.AppID
	Machine balance.MachineID
	Node    balance.NodeID // the edge that sent it
	Reason  balance.Bounce
	Load    balance.Load
}

// Faulted is an admitted request that its machine did not answer. With [FailureLimit] and [FailureDeadline] that is not the
// machine's fault.
type Faulted struct {
	App     balance.AppID
	Machine balance.MachineID
	Node    balance.NodeID
	Epoch   uint64
	Failure Failure
	Err     error
}
