//go:build !linux

package machine

import "time"

// fineTimer would sleep for less than a millisecond; here there is none, and timers have to do.
type fineTimer struct{}

func newFineTimer() *fineTimer { return nil }

func (*fineTimer) sleep(time.Duration) bool { return false }
func (*fineTimer) close()                   {}
