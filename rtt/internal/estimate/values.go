// Package estimate turns measurements of a path into a distance: round trips from the stamps of one
// exchange, a base from many of them, losses by direction, and an order that does not flap. It is
// pure: times are arguments, and nothing in it waits.
package estimate

import "time"

// Source says how a round trip was measured.
type Source uint8

// The order of these is that of the constants that package rtt exports.
const (
	SourceNone Source = iota
	SourceUDP
	SourceTCP
	SourceHTTP
	SourcePassive
)

// State says what the last measurement is worth now.
type State uint8

// The order of these is that of the constants that package rtt exports.
const (
	StateUnknown State = iota
	StateFresh
	StateStale
	StateLost
)

// Sample is one measured round trip.
type Sample struct {
	RTT    time.Duration // without the time the far end held the packet
	Source Source
	Kernel bool // every stamp that matters was taken by a kernel
}

// Fraction is a share of packets that were lost, with the number that it was counted over.
type Fraction struct{ Lost, N uint32 }

// Stat is what is known about one path.
type Stat struct {
	Base time.Duration // least round trip of the window; 0 means unknown
	P90  time.Duration // 90th percentile of the window

	Loss    Fraction // probes without an answer within 3 s
	LossOut Fraction // probes that did not arrive
	LossIn  Fraction // answers that did not come back

	Samples int           // round trips in the window
	Age     time.Duration // since the last sample
	State   State
	Source  Source // of the sample that is the base
	Kernel  bool   // the base was stamped by kernels
}

// Known reports whether the distance may be used: there is a base, and the node is not lost.
func (s Stat) Known() bool {
	return s.Base > 0 && s.State != StateLost && s.State != StateUnknown
}
