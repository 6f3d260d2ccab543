package downscale

import "time"

// Preset is a set of defaults: what a [Config] leaves at 0 is taken from it.
type Preset uint8

// The presets. Their figures come from a simulated day of ten machines whose load swings between one and nine of them.
const (
	// Balanced hardly ever stops a machine only to start it again: Window 5 min, Headroom 0.8, KeepAlive 5 min, Settle 30 s.
	Balanced Preset = iota
	// Cost sleeps early and runs full: Window 2 min, Headroom 0.9, KeepAlive 1 min, Settle 15 s.
	Cost
	// Latency keeps room for a load that comes back: Window 15 min, Headroom 0.7, KeepAlive 30 min, Settle 1 min.
	Latency
)

var presetNames = [...]string{"balanced", "cost", "latency"}

// String returns the preset's name.
func (p Preset) String() string { return name(presetNames[:], uint8(p), "preset") }

type defaults struct {
	window, keepAlive, settle time.Duration
	headroom                  float64
}

var presets = [...]defaults{
	Balanced: {window: 5 * time.Minute, headroom: 0.8, keepAlive: 5 * time.Minute, settle: 30 * time.Second},
	Cost:     {window: 2 * time.Minute, headroom: 0.9, keepAlive: time.Minute, settle: 15 * time.Second},
	Latency:  {window: 15 * time.Minute, headroom: 0.7, keepAlive: 30 * time.Minute, settle: time.Minute},
}
