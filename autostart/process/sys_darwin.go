package process

import "syscall"

// attributes returns what a child is created with: a group of its own.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// awaitExit waits until the child pid has ended and reports whether it has; false means that only
// reaping will tell. It does not reap it. (waitid would also return for a child that was stopped.)
func awaitExit(pid int) bool {
	queue, err := syscall.Kqueue()
	if err != nil {
		return false
	}
	defer syscall.Close(queue)
	change := syscall.Kevent_t{
		Ident:  uint64(pid),
		Filter: syscall.EVFILT_PROC,
		Flags:  syscall.EV_ADD | syscall.EV_ONESHOT,
		Fflags: syscall.NOTE_EXIT,
	}
	events := make([]syscall.Kevent_t, 1)
	for {
		switch _, err = syscall.Kevent(queue, []syscall.Kevent_t{change}, events, nil); err {
		case nil, syscall.ESRCH: // ESRCH: it had ended before
			return true
		case syscall.EINTR:
		default:
			return false
		}
	}
}

// seesStopped says that isStopped cannot tell.
const seesStopped = false

// isStopped reports true: there is no cheap way to see it, and the signal acts within microseconds.
func isStopped(int) bool { return true }
