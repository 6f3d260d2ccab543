package machine_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/autotest"
	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/balance"
)

// hookedDriver is a driver, a check and a readiness that call back.
type hookedDriver struct {
	*fakeDriver
	h *autotest.Hooks
}

func (d hookedDriver) Start(ctx context.Context, m balance.Machine) (machine.Booting, error) {
	d.h.Call("Driver.Start")
	return d.fakeDriver.Start(ctx, m)
}

func (d hookedDriver) Stop(ctx context.Context, m balance.Machine) error {
	d.h.Call("Driver.Stop")
	return d.fakeDriver.Stop(ctx, m)
}

func (d hookedDriver) Watch(ctx context.Context, exited func(machine.Exit)) error {
	d.h.Call("Driver.Watch")
	return d.fakeDriver.Watch(ctx, exited)
}

func (d hookedDriver) Await(context.Context, balance.Machine) error {
	d.h.Call("Readiness.Await")
	return errors.ErrUnsupported // have it checked
}

// The hooks of a Starter may call it back.
func TestStarterHooksMayCallBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &autotest.Hooks{}
		f, err := balance.NewFleet(balance.FleetConfig{Node: "n", Region: "nrt"})
		if err != nil {
			t.Fatal(err)
		}
		d := hookedDriver{newFakeDriver(), h}
		for id, of := range map[balance.MachineID]habits{"m0": {}, "m1": {ends: time.Minute, end: machine.Exit{Code: 1}}, "m2": {boot: time.Hour}} {
			d.habits[id] = of
			if _, err := f.Host(balance.Machine{ID: id, App: "web", Region: "nrt"}); err != nil {
				t.Fatal(err)
			}
		}
		s, err := machine.NewStarter(f, d, machine.Config{
			BootCap: time.Minute,
			Check: machine.Check{
				Every: time.Second,
				Func: func(ctx context.Context, m balance.Machine) error {
					h.Call("Check.Func")
					return d.check(ctx, m)
				},
			},
			Trace: machine.Trace{
				Starting: func(balance.Machine) { h.Call("StarterTrace.Starting") },
				Ready:    func(balance.Machine, bool, time.Duration) { h.Call("StarterTrace.Ready") },
				Failed:   func(balance.Machine) { h.Call("StarterTrace.Failed") },
				Exited:   func(balance.Machine, machine.Exit) { h.Call("StarterTrace.Exited") },
				Health:   func(balance.Machine, balance.Health, error) { h.Call("StarterTrace.Health") },
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		row := func(id balance.MachineID) balance.Machine {
			rows, _ := f.App("web")
			m, _ := rows.Machine(id)
			return m
		}
		h.Everything = func() {
			s.Start(t.Context(), row("m0"))
			s.Recall(t.Context(), row("m0"))
			f.Edit("web", "m0", func(m *balance.Machine) { m.Revision += "." })
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		for _, id := range []balance.MachineID{"m0", "m1", "m2"} {
			if _, err := s.Start(ctx, row(id)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(10 * time.Minute)
		d.sicken("m0", true)
		time.Sleep(time.Minute)
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		h.Want(t, "Driver.Start", "Driver.Stop", "Driver.Watch", "Readiness.Await", "Check.Func", "StarterTrace.Starting", "StarterTrace.Ready",
			"StarterTrace.Failed", "StarterTrace.Exited", "StarterTrace.Health")
	})
}
