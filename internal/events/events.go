// Package events decides which decisions of a proxy are kept, and which are summed. It is pure;
// package eventlog makes it safe for many writers and followers.
package events

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Kind says what happened.
type Kind string

// The kinds. Others may be added; readers show an unknown kind by its name.
const (
	Start      Kind = "start"       // a start was ordered; the reason says why
	Started    Kind = "started"     // the machine is ready
	Delayed    Kind = "delayed"     // the driver could not start it yet, and is called again later
	NotReady   Kind = "not-ready"   // it takes long to start; the reason says what is missing
	Health     Kind = "health"      // its checks fail, or pass again
	Answers    Kind = "answers"     // its answers show that it fails, or that it works again
	SoftCordon Kind = "soft-cordon" // a machine is about to be stopped unless traffic comes
	Uncordon   Kind = "uncordon"    // the machine was needed after all
	Veto       Kind = "veto"        // a machine that could be stopped is not, for the reason
	Stop       Kind = "stop"        // a stop was ordered
	Stopped    Kind = "stopped"
	Suspend    Kind = "suspend" // a suspension was ordered
	Suspended  Kind = "suspended"
	Resume     Kind = "resume" // a start of a suspended machine was ordered
	Exit       Kind = "exit"   // a machine ended by itself

	Bounce Kind = "bounce" // an owner refused a request
	Retry  Kind = "retry"  // a request was tried again elsewhere
	Park   Kind = "park"   // a request had to wait for a machine
	Failed Kind = "failed" // a request was answered by the proxy itself, or its answer broke off
)

// plurals are the kinds that are summed, with the word for several.
var plurals = map[Kind]string{
	Bounce: "bounces", Retry: "retries", Park: "parks", Failed: "failures",
}

// Event is one decision or occurrence. App, Machine and Node are empty if they do not apply.
type Event struct {
	Seq     uint64    `json:"seq"` // counts from 1, without gaps; given by the log
	Time    time.Time `json:"time"`
	Kind    Kind      `json:"kind"`
	App     string    `json:"app"`
	Machine string    `json:"machine"`
	Node    string    `json:"node"`
	Reason  string    `json:"reason"`          // for people
	Count   int       `json:"count,omitempty"` // how many occurrences a sum stands for; 0 means one
}

// DefaultSize is how many events a [Ring] keeps unless told otherwise.
const DefaultSize = 10_000

// SumFor is how long occurrences of one kind, app, machine and node are summed into one event.
const SumFor = time.Second

// maxReasons bounds the different reasons that a sum distinguishes.
const maxReasons = 3

// Ring holds the latest events, numbered. It is not safe for concurrent use.
//
// Bounces, retries, parks and failures come in floods. The first of its kind, app, machine and node
// becomes an event at once, so that it comes before its consequences. Those of the following second
// are summed into one event at its end ("12 bounces: full"), and so is every further second until
// one passes without any.
type Ring struct {
	size   int
	events []Event // grows to size, then the event with sequence number s is at (s-1) % size
	newest uint64  // sequence number of the newest event; 0 when there was none
	sums   map[sumKey]*sum
	open   []*sum // in order of until
}

type sumKey struct {
	kind               Kind
	app, machine, node string
}

type sum struct {
	key     sumKey
	until   time.Time
	count   int
	reasons []reason // in order of arrival
	others  int      // occurrences whose reasons found no room there
}

type reason struct {
	text  string
	count int
}

// NewRing returns a ring that keeps the latest size events; 0 or less means [DefaultSize].
func NewRing(size int) *Ring {
	if size <= 0 {
		size = DefaultSize
	}
	return &Ring{size: size, sums: make(map[sumKey]*sum)}
}

// Add takes in what happened at now: e becomes the newest event, or part of a sum. Its Seq is
// ignored; its Time is used only if set; a Count of 0 means 1.
func (r *Ring) Add(now time.Time, e Event) {
	r.Tick(now)
	if e.Time.IsZero() {
		e.Time = now
	}
	if _, ok := plurals[e.Kind]; !ok {
		r.append(e)
		return
	}
	key := sumKey{e.Kind, e.App, e.Machine, e.Node}
	if s := r.sums[key]; s != nil {
		s.add(e.Reason, max(1, e.Count))
		return
	}
	if e.Count > 1 {
		e.Reason = counted(e.Kind, e.Count, e.Reason)
	}
	r.append(e)
	s := &sum{key: key, until: now.Add(SumFor)}
	r.sums[key] = s
	r.open = append(r.open, s)
}

// Tick turns the sums that are due at now into events. Call it at the time that [Ring.Wake]
// returns, or later.
func (r *Ring) Tick(now time.Time) {
	for len(r.open) > 0 && !r.open[0].until.After(now) {
		s := r.open[0]
		r.open[0] = nil
		r.open = r.open[1:]
		if s.count == 0 {
			delete(r.sums, s.key)
			continue
		}
		r.append(s.event())
		// The flood may go on for another second. This keeps the order of open: all others began
		// before this one was due, so they are due before its next second is over.
		*s = sum{key: s.key, until: s.until.Add(SumFor)}
		r.open = append(r.open, s)
	}
}

// Wake returns when a sum is due; ok is false when none is open.
func (r *Ring) Wake() (at time.Time, ok bool) {
	if len(r.open) == 0 {
		return time.Time{}, false
	}
	return r.open[0].until, true
}

// Newest returns the sequence number of the newest event; 0 when there was none.
func (r *Ring) Newest() uint64 { return r.newest }

// Since appends to buf the events after the one with that sequence number, oldest first, at most
// limit of them, and returns it. Events that are no longer kept are skipped. A number beyond the
// newest is from the log of an earlier process: then everything is new.
func (r *Ring) Since(seq uint64, limit int, buf []Event) []Event {
	if seq > r.newest {
		seq = 0
	}
	first := r.newest - uint64(len(r.events)) // the event before the oldest that is kept
	seq = max(seq, first)
	for ; seq < r.newest && limit > 0; limit-- {
		buf = append(buf, r.events[seq%uint64(r.size)])
		seq++
	}
	return buf
}

func (r *Ring) append(e Event) {
	r.newest++
	e.Seq = r.newest
	if len(r.events) < r.size {
		r.events = append(r.events, e)
		return
	}
	r.events[(e.Seq-1)%uint64(r.size)] = e
}

func (s *sum) add(text string, n int) {
	s.count += n
	for i := range s.reasons {
		if s.reasons[i].text == text {
			s.reasons[i].count += n
			return
		}
	}
	if len(s.reasons) < maxReasons {
		s.reasons = append(s.reasons, reason{text, n})
		return
	}
	s.others += n
}

// event returns the sum as an event, at the end of the time that it sums.
func (s *sum) event() Event {
	k := s.key
	e := Event{
		Time: s.until, Kind: k.kind, App: k.app, Machine: k.machine, Node: k.node, Count: s.count,
	}
	if len(s.reasons) == 1 && s.others == 0 {
		e.Reason = s.reasons[0].text
		if s.count > 1 {
			e.Reason = counted(k.kind, s.count, e.Reason)
		}
		return e
	}
	slices.SortStableFunc(s.reasons, func(a, b reason) int { return cmp.Compare(b.count, a.count) })
	var parts []string
	for _, why := range s.reasons {
		parts = append(parts, fmt.Sprintf("%s (%d)", why.text, why.count))
	}
	if s.others > 0 {
		parts = append(parts, fmt.Sprintf("other (%d)", s.others))
	}
	e.Reason = counted(k.kind, s.count, strings.Join(parts, ", "))
	return e
}

// counted returns "12 bounces: full".
func counted(
	k Kind, n int, why string,
) string {
	return fmt.Sprintf("%d %s: %s", n, plurals[k], why)
}
