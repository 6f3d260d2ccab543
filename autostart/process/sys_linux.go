package process

import (
	"syscall"
	"unsafe"
)

// attributes returns what a child is created with: a group of its own, and SIGKILL when the
// creating thread ends.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

const (
	idTypePID   = 1 // P_PID
	codeStopped = 5 // CLD_STOPPED
)

// signalInfo is the kernel's siginfo_t: 128 bytes on every architecture.
type signalInfo struct {
	signo, errno, code int32
	_                  [29]int32
}

// waitID calls waitid for pid without reaping it: the process keeps its number.
func waitID(pid int, options uintptr) (signalInfo, error) {
	for {
		var info signalInfo
		_, _, errno := syscall.Syscall6(syscall.SYS_WAITID, idTypePID, uintptr(pid), uintptr(unsafe.Pointer(&info)),
			options|syscall.WNOWAIT, 0, 0)
		switch errno {
		case 0:
			return info, nil
		case syscall.EINTR:
		default:
			return info, errno
		}
	}
}

// awaitExit waits until the child pid has ended and reports whether it has. It does not reap it.
func awaitExit(pid int) bool {
	_, err := waitID(pid, syscall.WEXITED)
	return err == nil
}

// seesStopped says that isStopped can tell.
const seesStopped = true

// isStopped reports whether the child pid has been stopped by SIGSTOP.
func isStopped(pid int) bool {
	info, err := waitID(pid, syscall.WSTOPPED|syscall.WNOHANG)
	return err == nil && info.signo != 0 && info.code == codeStopped
}
