package downscale

import (
	"time"

	"github.com/ebbkit/ebb/balance"
)

// Connections knows the long connections to the machines that this node owns. Whatever forwards
// them implements it. As long as a connection is counted here, it also counts as in flight at the
// machine's gate. Methods must not block.
type Connections interface {
	// Long returns how many connections of these classes the machine has.
	Long(m balance.Machine, of balance.Class) int
	// Notify tells the machine's connections of these classes to end within that time, in the way
	// their protocol provides. It leaves alone connections that were told already, so it may be
	// called again for those that have come since. It does not wait. Within that time the
	// implementation may end a told connection by its protocol even if the other end says nothing,
	// but it never cuts off a message in the middle: if that is necessary, it is left to the
	// machine's stop.
	Notify(m balance.Machine, of balance.Class, within time.Duration)

	// Idle returns how many connections of these classes have carried no data for that long.
	// Keep-alive traffic is not data: control frames of a WebSocket, comments of an event stream,
	// pings of HTTP/2.
	Idle(m balance.Machine, of balance.Class, quiet time.Duration) int
	// NotifyIdle tells these connections to end, as Notify does.
	NotifyIdle(m balance.Machine, of balance.Class, quiet, within time.Duration)
}
