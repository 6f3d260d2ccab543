package autostart

import (
	"syscall"
	"time"
)

// nap sleeps for less than a millisecond, which timers cannot: the runtime waits for them in whole milliseconds when it has
// nothing else to do. It keeps a thread meanwhile. A signal may wake it early.
func nap(d time.Duration) bool {
	t := syscall.NsecToTimespec(int64(d))
	return syscall.Nanosleep(&t, nil) == nil
}
