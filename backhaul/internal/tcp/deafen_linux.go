package tcp

import (
	"net"
	"syscall"
)

// newOnly is a program of the kernel's packet filter that drops the first packet of a connection
// (SYN without ACK) and lets everything else through. It runs on TCP segments, from their header
// on.
var newOnly = []syscall.SockFilter{
	{Code: syscall.BPF_LD | syscall.BPF_B | syscall.BPF_ABS, K: 13}, // the flags
	{Code: syscall.BPF_ALU | syscall.BPF_AND | syscall.BPF_K, K: 0x12},
	{Code: syscall.BPF_JMP | syscall.BPF_JEQ | syscall.BPF_K, K: 0x02, Jt: 0, Jf: 1},
	{Code: syscall.BPF_RET | syscall.BPF_K, K: 0},
	{Code: syscall.BPF_RET | syscall.BPF_K, K: 0xffff},
}

// Deafen makes a listening socket drop new connections, or accept them again, and reports whether
// it does. A dropped client tries again a second later.
func Deafen(l *net.TCPListener, deaf bool) (done bool) {
	raw, err := l.SyscallConn()
	if err != nil {
		return false
	}
	err = raw.Control(func(fd uintptr) {
		if deaf {
			//lint:ignore SA1019 what takes its place is no part of the standard library
			done = syscall.AttachLsf(int(fd), newOnly) == nil
		} else {
			//lint:ignore SA1019 as above
			done = syscall.DetachLsf(int(fd)) == nil
		}
	})
	return err == nil && done
}
