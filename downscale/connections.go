package downscale

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/enum"
)

// Class is a set of classes of long connections. Requests are no class: they end by themselves and are waited for.
type Class uint8

// The classes, and how the connections of each are told.
const (
	Stream    Class = 1 << iota // HTTP/2 and gRPC streams: end of stream; the connection they share with others stays
	Events                      // server-sent events and other answers without an end: the answer ends
	WebSocket                   // close frame 1001, going away
	TCP                         // raw TCP: half-close

	AllClasses = Stream | Events | WebSocket | TCP
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
	if c&^AllClasses != 0 {
		names = append(names, "unknown")
	}
	return strings.Join(names, "+")
}

// MarshalText returns the classes as [Class.String] writes them; a class without a name is an error.
func (c Class) MarshalText() ([]byte, error) {
	if c&^AllClasses != 0 {
		return nil, fmt.Errorf("downscale: classes %#x: want a set of %s", uint8(c), enum.Or(classNames[:]))
	}
	return []byte(c.String()), nil
}

// UnmarshalText is the inverse of [Class.MarshalText]: names joined by "+", or "none".
func (c *Class) UnmarshalText(text []byte) error {
	var set Class
	for n := range strings.SplitSeq(string(text), "+") {
		i := slices.Index(classNames[:], n)
		if i < 0 && string(text) != "none" {
			return fmt.Errorf("downscale: classes %q: want none, or some of %s, joined by +", text, enum.Or(classNames[:]))
		}
		if i >= 0 {
			set |= 1 << i
		}
	}
	*c = set
	return nil
}

// Connections knows the long connections to the machines that this node owns: who forwards them implements it. Each is also
// one of what is in flight at the machine's gate, for as long as it is counted here. Its methods must not block.
type Connections interface {
	// Long returns how many connections of these classes the machine has.
	Long(m balance.Machine, of Class) int
	// Notify tells the machine's connections of these classes to end, in the way of their class, within that time. Those that
	// were told already it leaves alone, so it may be called again for those that have come since. It does not wait. Within
	// that time, what has been told may be ended as its protocol has it, also where the other end says nothing; but nothing
	// is broken off in the middle of a message: where that has to be, the machine's end does it.
	Notify(m balance.Machine, of Class, within time.Duration)

	// Idle returns how many connections of these classes have carried no data for that long. What keeps a connection alive is
	// no data: control frames of a WebSocket, comments of an event stream, pings of HTTP/2.
	Idle(m balance.Machine, of Class, quiet time.Duration) int
	// NotifyIdle tells these connections to end, as Notify does.
	NotifyIdle(m balance.Machine, of Class, quiet, within time.Duration)
}
