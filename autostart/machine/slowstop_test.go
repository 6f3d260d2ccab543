package machine

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// While a machine stops slowly, another one serves; where there is none, what waits is served after
// the stop.
func TestRequestDuringASlowStop(t *testing.T) {
	const boot = 100 * time.Millisecond
	for _, tc := range []struct {
		name        string
		stop, into  time.Duration
		machines    int
		again       bool // the stop has been seen before
		least, most time.Duration
	}{
		{"just begun, and nothing is known", 15 * sec, 0, 2, false, boot, 500*time.Millisecond + 100*time.Millisecond + boot},
		{"for a while", 15 * sec, sec, 2, false, boot, boot},
		{"for long", 15 * sec, 6 * sec, 2, false, boot, boot},
		{"known to be slow", 15 * sec, 0, 2, true, boot, boot},
		{"known to be quick", 200 * time.Millisecond, 0, 2, true, 200*time.Millisecond + boot, 200*time.Millisecond + boot},
		{"no other, and longer than a request waits for a known boot", 15 * sec, sec, 1, false, 14*sec + boot, 14*sec + boot},
		{"no other, and known", 15 * sec, sec, 1, true, 14*sec + boot, 14*sec + boot},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hs := make([]habits, tc.machines)
				for i := range hs {
					hs[i] = habits{boot: boot, stops: tc.stop}
				}
				n := newNode(t, balance.App{KeepAlive: sec}, Config{}, hs...)
				defer n.stop()
				first := canonical("web", tc.machines)[0]
				for seen := !tc.again; ; seen = true {
					if _, _, err := n.get(); err != nil {
						t.Fatal(err)
					}
					if n.stopping(first, 0); seen {
						break
					}
					time.Sleep(tc.stop + sec)
				}
				time.Sleep(tc.into)
				id, waited, err := n.get()
				const late, slack = 100 * time.Millisecond, 20 * time.Millisecond // how late a stop is seen here, a boot there
				if err != nil || waited < tc.least-late-slack || waited > tc.most+slack {
					t.Errorf("served by %q after %v, error %v; want between %v and %v", id, waited, err, tc.least, tc.most)
				}
			})
		})
	}
}
