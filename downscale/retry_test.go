package downscale

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// later is a transient error.
type later struct{ after time.Duration }

func (e later) Error() string             { return fmt.Sprintf("not before %v", e.after) }
func (e later) RetryAfter() time.Duration { return e.after }

func TestRetryAfter(t *testing.T) {
	if _, ok := retryAfter(errors.New("no"), 0, 0); ok {
		t.Error("an ordinary error is tried again")
	}
	for _, tc := range []struct {
		err   error
		n     int
		least time.Duration
	}{
		{later{}, 0, 250 * time.Millisecond}, {later{}, 2, sec}, {later{}, 1000, 5 * sec},
		{later{8 * sec}, 2, 8 * sec}, {fmt.Errorf("stop m1: %w", later{8 * sec}), 0, 8 * sec},
	} {
		for _, bits := range []uint64{0, 1 << 63, ^uint64(0)} {
			wait, ok := retryAfter(tc.err, tc.n, bits)
			if !ok || wait < tc.least || bits == 0 && wait != tc.least || wait > tc.least*2 {
				t.Errorf("%v, %d in a row: after %v, %v; want %v and some chance", tc.err, tc.n, wait, ok, tc.least)
			}
		}
	}
}

// A stop whose driver returns a transient error is neither given up nor in doubt: the call is
// retried.
func TestPassingErrorsOfAStop(t *testing.T) {
	for mode, states := range map[balance.Autostop][2]string{
		balance.AutostopStop:    {"m1 stopping running", "m1 stopped gone"},
		balance.AutostopSuspend: {"m1 suspending running", "m1 suspended frozen"},
	} {
		synctest.Test(t, func(t *testing.T) {
			app := stopApp
			app.Autostop = mode
			b := newBench(t, quick, app, "m1")
			b.driver.refuse = later{3 * sec}
			b.driver.suspend = b.driver.refuse
			defer b.run()()
			time.Sleep(20 * sec)
			b.wantStates(states[0])
			b.driver.set(func() { b.driver.refuse, b.driver.suspend = nil, nil })
			time.Sleep(6 * sec)
			b.wantStates(states[1])
			if len(b.log) != 3 {
				t.Errorf("want a cordon, a stop and its end, and no failure: %q", b.log)
			}
			b.forget()
		})
	}
}

// It ends like a failure, with the machine running, when the time of the stop is over.
func TestPassingErrorThatStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := quick
		c.StopTimeout = 10 * sec
		b := newBench(t, c, stopApp, "m1")
		b.driver.refuse, b.driver.takes = later{
			2 * sec,
		}, 0 // a call that its end cuts off would leave it in doubt
		defer b.run()()
		at := func(state balance.State) time.Time {
			t.Helper()
			for until := time.Now().Add(time.Minute); b.gate("m1").State() != state; synctest.Wait() {
				if time.Now().After(until) {
					t.Fatalf("not %v within a minute; it is %v", state, b.states())
				}
				time.Sleep(10 * time.Millisecond)
			}
			return time.Now()
		}
		began := at(balance.StateStopping)
		ended := at(balance.StateStarted)
		b.wantStates("m1 started running")
		// A pause that would not end in time is not begun: the last call is that much earlier. A
		// pause is up to 4 s.
		if took := ended.Sub(began); took > c.StopTimeout || took < c.StopTimeout-5*sec {
			t.Errorf("given up after %v, want %v", took, c.StopTimeout)
		}
		b.forget()
	})
}

// A request that wants the machine meanwhile gets it at once.
func TestWantedWhileAStopIsPutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, quick, stopApp, "m1")
		defer b.fleet.Keep(balance.Keeper{Wanted: func(balance.AppID, balance.MachineID) {}})()
		b.driver.refuse = later{20 * sec}
		defer b.run()()
		time.Sleep(10 * sec)
		b.wantStates("m1 stopping running")
		if _, a := b.gate("m1").Start(1); a != balance.StartRemembered {
			t.Fatalf("a start during the stop: %v", a)
		}
		time.Sleep(wantedEvery)
		b.wantStates("m1 started running")
		b.forget()
	})
}
