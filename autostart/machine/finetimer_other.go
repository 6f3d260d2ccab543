//go:build !linux

package machine

import "time"

// napper would sleep for less than a millisecond; here there is none, and timers have to do.
type napper struct{}

func newNapper() *napper { return nil }

func (*napper) nap(time.Duration) bool { return false }
func (*napper) close()                 {}
