package balance

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ebbkit/ebb/internal/enum"
)

// Request is what a strategy knows about a request. It is a value; the zero value of every field
// but App is valid.
type Request struct {
	App AppID
	// Key asks for affinity: requests with equal keys go to the same machine while it has room. Empty
	// means none.
	Key string
	// Tenant is the customer or API key that the request is for. Waiting requests take turns by
	// tenant within their app; those without one share one turn. It does not affect the pick.
	Tenant string
	// Tried are the machines that this request has tried; they are never picked again.
	Tried []MachineID
	// Rand holds the random bits of this pick, its only source of chance. 0 means that the balancer
	// draws them.
	Rand uint64
	// Place is the request's place in its app's waiting room. The waiting room sets it at the first
	// try, so that a request which is bounced returns to its old place. 0 for a new request.
	Place uint64
	// Held is the size of the body that the request keeps in memory while it waits, in bytes; 0 if
	// the body has not been read. A waiting room counts it.
	Held int
	// Force is the set of machines that the request must go to: no other is ever picked. nil means
	// any. Targets are read only: requests may share one.
	Force *Target
	// Prefer is the set of machines that the request goes to while one of them can be used.
	Prefer *Target

	// Insist says that the request cannot wait for a slot. If no machine can be used, the pick may
	// take one that is full only by this node's estimate of the load of others. Its owner decides:
	// a bounce costs less than no answer. A machine whose owner has said that it is full is not
	// taken.
	Insist bool

	first *Target // Prefer, during the balancer's first try: only these
}

// plain reports whether every machine may serve the request, and none is preferred.
func (r *Request) plain() bool {
	return len(r.Tried) == 0 && r.Force == nil && r.Key == "" && r.first == nil
}

// admits reports whether a machine may serve the request.
func (r *Request) admits(m *row) bool { return m != nil && !r.tried(m.id) && r.wants(m) }

func (r *Request) tried(id MachineID) bool { return slices.Contains(r.Tried, id) }

func (r *Request) wants(m *row) bool { return r.Force.has(m) && r.first.has(m) }

// Target is a set of machines: those with one of the IDs, in one of the regions, and of the
// revision. An empty field means any; so does a nil target.
type Target struct {
	Machines []MachineID
	Regions  []string
	Revision string
}

// Empty reports whether the target is every machine.
func (t *Target) Empty() bool {
	return t == nil || len(t.Machines) == 0 && len(t.Regions) == 0 && t.Revision == ""
}

// Has reports whether the machine is one of the target's.
func (t *Target) Has(m *Machine) bool {
	return t == nil || t.contains(m.ID, m.Region, m.Revision)
}

func (t *Target) has(m *row) bool {
	return t == nil || t.contains(m.id, m.shared.region, m.shared.revision)
}

func (t *Target) contains(id MachineID, region, revision string) bool {
	return (len(t.Machines) == 0 || slices.Contains(t.Machines, id)) &&
		(len(t.Regions) == 0 || slices.Contains(t.Regions, region)) &&
		(t.Revision == "" || t.Revision == revision)
}

// Outcome is how a request ended at the machine that it was sent to.
type Outcome uint8

// The outcomes. Only OutcomeDone and OutcomeError say anything about the machine's health.
const (
	OutcomeDone    Outcome = iota // answered
	OutcomeBounced                // refused by the owner
	// the machine or the path to it failed, or it answered that it failed
	OutcomeError
	OutcomeCanceled // the client left, or the request's deadline passed
	OutcomeUnserved // no machine got it: none was found, or this node could not send it
)

var outcomeNames = [...]string{"done", "bounced", "errored", "canceled", "unserved"}

// String returns the outcome's name as it stands in logs, JSON and metrics.
func (o Outcome) String() string { return enum.String(outcomeNames[:], uint8(o), "outcome") }

// MarshalText returns the outcome's name; a value without one is an error.
func (o Outcome) MarshalText() ([]byte, error) {
	return enum.Marshal("balance: outcome", outcomeNames[:], uint8(o))
}

// UnmarshalText is the inverse of [Outcome.MarshalText]; the error lists the names.
func (o *Outcome) UnmarshalText(text []byte) error {
	return enum.Unmarshal(o, "balance: outcome", outcomeNames[:], text)
}

// Class is a set of classes of long connections. Plain requests have no class: they end by
// themselves and are waited for.
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
