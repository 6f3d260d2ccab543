package machine

import (
	"os"
	"syscall"
	"time"
	"unsafe"
)

// fineTimer sleeps for less than a millisecond, which timers cannot: the runtime waits for them in
// whole milliseconds when it has nothing else to do. It is a timer of the kernel that the runtime
// polls as it does sockets. A sleeping system call would need no timer, but would keep a processor
// from all other goroutines meanwhile: their timers were up to a second late.
type fineTimer struct {
	fd   int // of file
	file *os.File
}

// newFineTimer returns a fineTimer, or nil when the system has none to give.
func newFineTimer() *fineTimer {
	const monotonic = 1 // CLOCK_MONOTONIC
	fd, _, errno := syscall.Syscall(
		syscall.SYS_TIMERFD_CREATE, monotonic, syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0,
	)
	if errno != 0 {
		return nil
	}
	return &fineTimer{int(fd), os.NewFile(fd, "timerfd")}
}

// sleep reports false when it has not slept. d is above 0.
func (n *fineTimer) sleep(d time.Duration) bool {
	var at struct{ every, first syscall.Timespec }
	at.first = syscall.NsecToTimespec(int64(d))
	if _, _, errno := syscall.Syscall6(syscall.SYS_TIMERFD_SETTIME, uintptr(n.fd), 0, uintptr(unsafe.Pointer(&at)), 0, 0, 0); errno != 0 {
		return false
	}
	var expired [8]byte
	_, err := n.file.Read(expired[:])
	return err == nil
}

func (n *fineTimer) close() { n.file.Close() }
