//go:build unix

package oslimit

import "syscall"

// Files returns how many files the process may open; 0 means that it is not known.
func Files() int {
	var r syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r) != nil {
		return 0
	}
	return int(min(uint64(r.Cur), 1<<30))
}
