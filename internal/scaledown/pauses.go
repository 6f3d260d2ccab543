package scaledown

import "time"

// pauses finds the pauses of one app. The zero value has seen nothing.
type pauses struct {
	used time.Time // the latest look that found the app in use; zero before the first
	idle bool      // looks since then found it idle
}

// look takes in whether the app is in use, and returns the length of a pause that this look ends. A
// pause is counted from the same look as the keep-alive: an app that is kept for that long is kept
// for the whole pause.
func (p *pauses) look(now time.Time, inUse bool) (gap time.Duration, ended bool) {
	if !inUse {
		p.idle = true
		return 0, false
	}
	if p.idle && !p.used.IsZero() && now.After(p.used) {
		gap, ended = now.Sub(p.used), true
	}
	p.used, p.idle = now, false
	return gap, ended
}
