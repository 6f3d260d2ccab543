package downscale

import "github.com/ebbkit/ebb/balance"

// Class is [balance.Class], where it lives; the names here go with their last user.
type Class = balance.Class

const (
	Stream     = balance.ClassStream
	Events     = balance.ClassEvents
	WebSocket  = balance.ClassWebSocket
	TCP        = balance.ClassTCP
	AllClasses = balance.ClassAll
)
