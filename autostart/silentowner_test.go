package autostart

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// The same with the shell: neither an owner that says nothing, nor one that is only late, keeps a
// request waiting.
func TestSilentOwnerIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newAway(t, balance.App{}, "dead", "dead", "live")
		defer w.stop()
		w.silent["dead"] = true
		if waited, err := w.get(); err != nil || waited > w.boot+600*time.Millisecond {
			t.Errorf("waited %v, error %v; want the boot of %v and little more", waited, err, w.boot)
		}
		w.wants("dead", "live")
	})
	synctest.Test(t, func(t *testing.T) {
		w := newAway(t, balance.App{}, "slow", "slow")
		defer w.stop()
		w.late = 2 * sec
		if waited, err := w.get(); err != nil || waited != w.late+w.boot {
			t.Errorf("waited %v, error %v; want the answer and the boot, %v", waited, err, w.late+w.boot)
		}
		w.wants("slow")
	})
}
