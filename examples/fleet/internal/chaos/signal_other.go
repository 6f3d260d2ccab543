//go:build !unix

package chaos

import "errors"

const (
	kill = iota
	stop
	resume
)

func signal(int, int) error { return errors.ErrUnsupported }

func of(int, string) bool { return false }
