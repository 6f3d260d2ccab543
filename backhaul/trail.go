package backhaul

import (
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/enum"
)

// Trail is the whole way of one request: what happened, in order, and when.
type Trail struct {
	Done   Done
	Method string
	Path   string
	// Trace is the request's traceparent header (W3C Trace Context): passed on as it came, or made where it was missing and
	// Config.MakeTrace is set. Empty means none.
	Trace string
	Begun time.Time
	Steps []Step
	// Sampled says that the request was neither slow nor failed: it stands for as many as Config.Sample says.
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

// String returns the kind's name.
func (k StepKind) String() string { return enum.Name(stepNames[:], uint8(k)) }

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

// maxSteps bounds a trail: a request that parks for minutes has more to tell than anyone reads. The first ones and the end
// are kept.
const maxSteps = 256

// wanted decides about a request at its end: failed and slow ones always, of the others one in sample, drawn by random bits.
func wanted(d Done, slow time.Duration, sample int, random uint64) (want, sampled bool) {
	took := d.First // a long download or an open WebSocket is not slow
	if took == 0 {
		took = d.Total
	}
	failed := d.Err != nil || d.Failures > 0 || d.Outcome == balance.OutcomeError || d.Outcome == balance.OutcomeBounced
	if failed || slow > 0 && took >= slow {
		return true, false
	}
	return sample > 0 && random%uint64(sample) == 0, true
}
