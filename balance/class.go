package balance

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ebbkit/ebb/internal/enum"
)

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
