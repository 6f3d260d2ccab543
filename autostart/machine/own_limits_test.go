//go:build unix

package machine_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/balance"
)

// Checks that this node could not make, for lack of descriptors, memory, ports or processes, say
// nothing about the machine: they are neither failures nor successes, and those before and after
// them count as if they stood in a row.
func TestOwnLimitsAreNotFailingChecks(t *testing.T) {
	for _, limit := range []error{
		&net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("socket", syscall.EMFILE)},
		&net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.EADDRNOTAVAIL)},
		fmt.Errorf("check: %w", &exec.Error{Name: "check", Err: os.NewSyscallError("fork/exec", syscall.EAGAIN)}),
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, machine.Config{}, habits{boot: sec})
			r.restartAfter(-1)
			defer r.stop()
			var result atomic.Pointer[error] // of checks from now on; nil asks the machine
			var made atomic.Int64
			r.d.look = func(err error) error {
				made.Add(1)
				if told := result.Load(); told != nil {
					return *told
				}
				return err
			}
			r.start("m0")
			time.Sleep(2 * sec)
			checks := func(n int, err error, want balance.Health) {
				t.Helper()
				result.Store(&err)
				made.Store(0)
				for made.Load() < int64(n) {
					time.Sleep(100 * time.Millisecond)
				}
				synctest.Wait()
				if m := r.row("m0"); m.Health != want {
					t.Errorf("after %d checks with %v: %v, want %v", n, err, m.Health, want)
				}
			}
			unwell := errors.New("unwell")
			checks(100, limit, balance.HealthPassing)
			checks(2, unwell, balance.HealthPassing)
			checks(100, limit, balance.HealthPassing)
			checks(1, unwell, balance.HealthFailing)
			checks(100, limit, balance.HealthFailing)
			checks(1, nil, balance.HealthPassing)
		})
	}
}
