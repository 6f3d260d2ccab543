package downscale

import (
	"time"

	"github.com/ebbkit/ebb/balance"
)

// Connections knows the long connections to the machines that this node owns: who forwards them
// implements it. Each is also one of what is in flight at the machine's gate, for as long as it
// is counted here. Its methods must not block.
type Connections interface {
	// Long returns how many connections of these classes the machine has.
	Long(m balance.Machine, of balance.Class) int
	// Notify tells the machine's connections of these classes to end, in the way of their class,
	// within that time. Those that were told already it leaves alone, so it may be called again
	// for those that have come since. It does not wait. Within that time, what has been told may
	// be ended as its protocol has it, also where the other end says nothing; but nothing is
	// broken off in the middle of a message: where that has to be, the machine's end does it.
	Notify(m balance.Machine, of balance.Class, within time.Duration)

	// Idle returns how many connections of these classes have carried no data for that long. What
	// keeps a connection alive is no data: control frames of a WebSocket, comments of an event
	// stream, pings of HTTP/2.
	Idle(m balance.Machine, of balance.Class, quiet time.Duration) int
	// NotifyIdle tells these connections to end, as Notify does.
	NotifyIdle(m balance.Machine, of balance.Class, quiet, within time.Duration)
}
