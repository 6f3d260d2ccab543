package machine_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/balance"
	"github.com/google/go-cmp/cmp"
)

// What is found about a start that is over does not change the row of the next start.
func TestWhatAnEarlierStartSaysChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, machine.Config{}, habits{})
		defer r.stop()
		r.start("m0")
		time.Sleep(sec)
		r.d.crash("m0", machine.Exit{Code: 1, Reason: "exit status 1"})
		synctest.Wait()
		r.start("m0")
		time.Sleep(sec)
		before := r.row("m0")
		if before.State != balance.StateStarted || before.Epoch != 2 {
			t.Fatalf("row %+v", before)
		}
		r.d.report(machine.Exit{App: "web", ID: "m0", Epoch: 1, Code: 1, Reason: "exit status 1"})
		synctest.Wait()
		if diff := cmp.Diff(before, r.row("m0")); diff != "" {
			t.Errorf("the row of the second start (-before +after)\n%s", diff)
		}
	})
}

// inspected records which starts of its machines are inspected.
type inspected struct {
	*fakeDriver
	epochs []uint64
}

func (d *inspected) Inspect(_ context.Context, m balance.Machine) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.epochs = append(d.epochs, m.Epoch)
	return nil
}

// A machine that was suspended and resumed is checked once per period, in its present start. The
// checks of the earlier start have ended.
func TestAResumedMachineIsLookedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &inspected{fakeDriver: newFakeDriver()}
		r := newRigWith(t, d.fakeDriver, d, machine.Config{}, habits{})
		defer r.stop()
		looks := func(d *inspected) []uint64 {
			time.Sleep(30*sec + sec/2)
			d.mu.Lock()
			defer d.mu.Unlock()
			got := d.epochs
			d.epochs = nil
			return got
		}
		r.start("m0")
		before := looks(d)
		gate := r.fleet.Gate("web", "m0")
		gen, _ := gate.Cordon()
		token, _ := gate.Close(gen, true)
		r.d.Suspend(t.Context(), r.row("m0"))
		gate.Closed(token, true)
		r.start("m0")
		after := looks(d)
		if len(before) == 0 || slices.Max(before) != 1 || len(after) != len(before) ||
			slices.Min(after) != 2 {
			t.Errorf("looks at starts %v, and after a resume in the same time at %v", before, after)
		}
	})
}

// readiness tells when a machine is ready.
type readiness func(context.Context, balance.Machine) error

func (f readiness) Await(ctx context.Context, m balance.Machine) error { return f(ctx, m) }

// A machine whose start is given up at the moment at which it becomes ready is stopped, and its row
// says that it does not run.
func TestAStartGivenUpWhileItBecomesReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r *rig
		late := true
		ready := readiness(func(_ context.Context, m balance.Machine) error {
			if late {
				r.fleet.Gate(m.App, m.ID).Exited(m.Epoch, false)
			}
			return nil
		})
		r = newRig(t, machine.Config{Readiness: ready}, habits{})
		r.start("m0")
		if _, _, running := r.d.counts(); r.row("m0").State != balance.StateStopped || running != 0 {
			t.Errorf("the row says %v, and %d run", r.row("m0").State, running)
		}
		late = false
		r.start("m0")
		if _, _, running := r.d.counts(); r.row("m0").State != balance.StateStarted || running != 1 {
			t.Errorf("started again: the row says %v, and %d run", r.row("m0").State, running)
		}
		r.stop()
		if want := []string{"starting m0@1", "starting m0@2", "ready m0 cold 0s"}; !slices.Equal(r.events,
			want) {
			t.Errorf("events %q, want %q", r.events, want)
		}
	})
}
