package machinetest_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/autostart/machinetest"
	"github.com/ebbkit/ebb/balance"
)

// A fake follows its fields and calls: boots that take time or fail, checks that fail, and exits.
func TestFakeFollowsItsScript(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("no disk")
		f := &machinetest.Fake{
			OnStart: func(_ context.Context, m balance.Machine) (time.Duration, error) {
				if m.Epoch == 1 {
					return 0, broken
				}
				return 3 * time.Second, nil
			},
			OnStop:    func(context.Context, balance.Machine) error { return broken },
			OnSuspend: func(context.Context, balance.Machine) error { return errors.ErrUnsupported },
			OnList:    func(context.Context) error { return broken },
		}
		m := balance.Machine{App: "web", ID: "m1", Epoch: 1}
		if _, err := f.Start(t.Context(), m); err != broken {
			t.Error("start:", err)
		}
		m.Epoch = 2
		b, err := f.Start(t.Context(), m)
		if err != nil || b != (machine.Booting{Addr: "m1.web:80"}) {
			t.Error(b, err)
		}
		m.Addr = b.Addr
		if err := f.Check(t.Context(), m); err == nil ||
			err.Error() != "dial tcp m1.web:80: connect: connection refused" {
			t.Error("check of a machine that boots:", err)
		}
		began := time.Now()
		if err := f.Await(t.Context(), m); err != nil || time.Since(began) != 3*time.Second {
			t.Error("await:", err, time.Since(began))
		}
		if err := f.Check(t.Context(), m); err != nil {
			t.Error("check of a machine that is up:", err)
		}
		f.Sicken("web", "m1", broken)
		if err := f.Check(t.Context(), m); err != broken {
			t.Error("check of a machine that is sick:", err)
		}
		if err := f.Stop(t.Context(), m); err != broken {
			t.Error("stop:", err)
		}
		if err := f.Suspend(t.Context(), m); err != errors.ErrUnsupported {
			t.Error("suspend:", err)
		}
		if _, err := f.List(t.Context()); err != broken {
			t.Error("list:", err)
		}
		f.Exit(machine.Exit{App: "web", ID: "m1"})
		if err := f.Await(t.Context(), m); err == nil {
			t.Error("a machine that has ended is ready")
		}
		want := []string{"start web/m1@1", "start web/m1@2", "stop web/m1@2", "suspend web/m1@2"}
		if d := cmp.Diff(want, f.Calls()); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
	})
}
