package downscale

import "time"

// Policy decides which machines of one app are surplus. It sees one app only, and is not called from two goroutines at once.
// [Decider] is the default, [Excess] another; package downscaletest checks yours.
//
// A policy decides and does not act. What it says against a bound is not carried out, see
// [Bounded], and between what is carried out and a stopped machine stands the soft cordon.
type Policy interface {
	// Decide returns the machines to spare and those of the leaving ones to recall, at time now. It is asked each
	// [Config.Every]. Time may stand still; it does not go back by more than clocks do. s and its machines are valid until
	// Decide returns, and the answer until the next call.
	Decide(now time.Time, s Situation) []Decision
}
