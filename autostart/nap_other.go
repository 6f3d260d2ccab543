//go:build !linux

package autostart

import "time"

// nap sleeps for less than a millisecond, where that is possible: elsewhere the first looks are as far apart as timers are.
func nap(time.Duration) bool { return false }
