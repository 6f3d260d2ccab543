package balance

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ebbkit/ebb/internal/enum"
)

// Request is what a strategy knows of a request. It is a value; the zero value of every field but
// App is valid.
type Request struct {
	App AppID
	// Key asks for affinity: requests with equal keys go to the same machine while it has room. Empty
	// means none.
	Key string
	// Tenant is on whose behalf the request is, such as a customer or an API key. Requests that
	// wait take turns by tenant within their app; those without one are a tenant of their own. It
	// has no part in the pick.
	Tenant string
	// Tried are the machines that have been tried for this request; they are left out exactly.
	Tried []MachineID
	// Rand are the random bits of this pick, the only chance in it. 0 means that the balancer draws
	// them.
	Rand uint64
	// Place is the request's place in its app's waiting room. The waiting room sets it at the first
	// try and finds it again at the next, so that a bounced request loses no ground. 0 for a
	// request that is new.
	Place uint64
	// Held is what the request holds in memory while it waits, in bytes, beside its head: its body,
	// where that has been read already. A waiting room counts it.
	Held int
	// Want says which machines the request has to go to, or would rather; nil means any.
	Want *Want

	// Insist says that the request cannot wait for a slot. Where no machine can be used, one is that
	// is full only as far as this node estimates what others have there: its owner decides then,
	// and a bounce costs less than no answer. Once an owner has said so, its machine is full.
	Insist bool

	preferring bool // only what is preferred counts: the balancer's first try
}

// plain reports whether the request excludes nothing and belongs nowhere.
func (r *Request) plain() bool { return len(r.Tried) == 0 && r.Want == nil && r.Key == "" }

// admits reports whether a machine may serve the request.
func (r *Request) admits(m *row) bool { return m != nil && !r.tried(m.id) && r.wants(m) }

func (r *Request) tried(id MachineID) bool { return slices.Contains(r.Tried, id) }

func (r *Request) wants(m *row) bool {
	w := r.Want
	return w == nil ||
		(w.Revision == "" || w.Revision == m.shared.revision) && w.Force.has(m) &&
			(!r.preferring || w.Prefer.has(m))
}

// Want says where a request has to go. It is read only: requests may share one.
type Want struct {
	Revision string // only machines of this revision; empty means any
	Force    Target // only these machines: another is never picked
	Prefer   Target // these machines while one of them can be used, else any
}

// Target is a set of machines: those with one of the IDs and in one of the regions. An empty list
// means any.
type Target struct {
	Machines []MachineID
	Regions  []string
}

// Empty reports whether the target is every machine.
func (t *Target) Empty() bool { return len(t.Machines) == 0 && len(t.Regions) == 0 }

func (t *Target) has(m *row) bool {
	return (len(t.Machines) == 0 || slices.Contains(t.Machines, m.id)) &&
		(len(t.Regions) == 0 || slices.Contains(t.Regions, m.shared.region))
}

// Outcome is how a request ended for the machine that it was sent to.
type Outcome uint8

// The outcomes. Only OutcomeDone and OutcomeError say anything about the machine's health.
const (
	OutcomeDone    Outcome = iota // answered
	OutcomeBounced                // refused by the owner
	// the machine or the way to it failed, or it answered that it failed
	OutcomeError
	OutcomeCanceled // the client left, or the request's time was up
	OutcomeUnserved // no machine got it: none was found, or this node could not send it
)

var outcomeNames = [...]string{"done", "bounced", "errored", "canceled", "unserved"}

// String returns the outcome's name as it stands in logs, JSON and metrics.
func (o Outcome) String() string { return enum.String(outcomeNames[:], uint8(o), "outcome") }

// MarshalText returns the outcome's name.
func (o Outcome) MarshalText() ([]byte, error) {
	if int(o) >= len(outcomeNames) {
		return nil, fmt.Errorf("balance: %v has no name", o)
	}
	return []byte(o.String()), nil
}

// UnmarshalText is the inverse of [Outcome.MarshalText].
func (o *Outcome) UnmarshalText(text []byte) error {
	i := slices.Index(outcomeNames[:], string(text))
	if i < 0 {
		return fmt.Errorf(
			"balance: unknown outcome %q: want one of %s", text, strings.Join(outcomeNames[:], ", "),
		)
	}
	*o = Outcome(i)
	return nil
}

// Class is a set of classes of long connections. Requests are no class: they end by themselves and
// are waited for.
type Class uint8

// The classes, and how connections of each are told to end.
const (
	// ClassStream is HTTP/2 and gRPC streams: end of stream; the connection that they share stays.
	ClassStream Class = 1 << iota
	// ClassEvents is server-sent events and other answers without an end: the answer ends.
	ClassEvents
	// ClassWebSocket is WebSockets: close frame 1001, going away.
	ClassWebSocket
	// ClassTCP is raw TCP: half-close.
	ClassTCP

	ClassAll = ClassStream | ClassEvents | ClassWebSocket | ClassTCP
)

var classNames = [...]string{"stream", "events", "websocket", "tcp"}

// String returns the names of the classes, joined by "+"; "none" for the empty set.
func (c Class) String() string {
	if c == 0 {
		return "none"
	}
	var names []string
	for i, n := range classNames {
		if c&(1<<i) != 0 {
			names = append(names, n)
		}
	}
	if c&^ClassAll != 0 {
		names = append(names, "unknown")
	}
	return strings.Join(names, "+")
}

// MarshalText returns the classes as [Class.String] writes them; a class without a name is an
// error.
func (c Class) MarshalText() ([]byte, error) {
	if c&^ClassAll != 0 {
		return nil, fmt.Errorf("balance: classes %#x: want a set of %s", uint8(c), enum.Or(classNames[:]))
	}
	return []byte(c.String()), nil
}

// UnmarshalText is the inverse of [Class.MarshalText]: names joined by "+", or "none".
func (c *Class) UnmarshalText(text []byte) error {
	var set Class
	for n := range strings.SplitSeq(string(text), "+") {
		i := slices.Index(classNames[:], n)
		if i < 0 && string(text) != "none" {
			return fmt.Errorf(
				"balance: classes %q: want none, or some of %s, joined by +", text, enum.Or(classNames[:]),
			)
		}
		if i >= 0 {
			set |= 1 << i
		}
	}
	*c = set
	return nil
}
