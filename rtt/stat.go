package rtt

import (
	"time"

	"github.com/ebbkit/ebb/internal/enum"
	"github.com/ebbkit/ebb/rtt/internal/estimate"
)

// sources are the names of estimate.Source's values.
var sources = [...]string{"", "udp", "tcp", "http", "passive"}

// State says what the last measurement is worth now. In JSON, flags and logs it appears by name.
type State uint8

// The values are those of package estimate; a test checks this.
const (
	// StateUnknown: nothing was ever measured. Unknown is not near.
	StateUnknown State = iota
	// StateFresh: measured within the last three probe intervals and a second.
	StateFresh
	// StateStale: measured once, but not lately. The distance is still the best guess there is.
	StateStale
	// StateLost: the last three probes went unanswered for three times their usual round trip (0.2
	// to 1 s, or 1.5 times a longer one), and nothing else was heard since.
	StateLost
)

var stateNames = [...]string{"unknown", "fresh", "stale", "lost"}

// String returns the name.
func (s State) String() string { return enum.String(stateNames[:], uint8(s), "state") }

// MarshalText returns the state's name; a value without one is an error.
func (s State) MarshalText() ([]byte, error) {
	return enum.Marshal("rtt: state", stateNames[:], uint8(s))
}

// UnmarshalText is the inverse of [State.MarshalText]; the error lists the names.
func (s *State) UnmarshalText(text []byte) error {
	return enum.Unmarshal(s, "rtt: state", stateNames[:], text)
}

// Fraction is a share of lost packets together with the number it was counted over, because 1 of 3
// says less than 100 of 300. The zero value says that nothing was counted.
type Fraction struct{ Lost, N uint32 }

// Value returns Lost / N, and 0 when nothing was counted.
func (f Fraction) Value() float64 {
	if f.N == 0 {
		return 0
	}
	return min(float64(f.Lost)/float64(f.N), 1)
}

// Stat is what is known about the way to one node. It is a plain value.
type Stat struct {
	Base time.Duration // least round trip of the window: the path without queues; 0 means unknown
	P90  time.Duration // 90th percentile of the window

	Loss    Fraction // probes without an answer within 3 s, in either direction
	LossOut Fraction // probes that did not arrive at the peer, by the peer's count
	LossIn  Fraction // answers that did not come back, by the peer's count

	Samples int           // round trips in the window, at most 60
	Age     time.Duration // since the last sample, when this value was made
	State   State
	// Source says how the base was measured: "udp", an authenticated probe; "tcp", the handshake of a
	// connection; "http", a HEAD request; "passive", see [Mesh.Observe]. The name is for people.
	Source string
	Kernel bool // all timestamps of the base are kernels', so that busy processes do not affect it
}

// Known reports whether the distance may be used: there is a base, and the node is not lost.
func (s Stat) Known() bool { return s.Base > 0 && s.State != StateLost && s.State != StateUnknown }

func statOf(e *estimate.Stat) Stat {
	return Stat{
		Base: e.Base, P90: e.P90,
		Loss: Fraction(e.Loss), LossOut: Fraction(e.LossOut), LossIn: Fraction(e.LossIn),
		Samples: e.Samples, Age: e.Age, State: State(e.State), Source: sources[e.Source],
		Kernel: e.Kernel,
	}
}
