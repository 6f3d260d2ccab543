package member

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"sync"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/autostart/process"
	"github.com/ebbkit/ebb/backhaul/node"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/examples/fleet/internal/config"
)

// drivers is the driver of all apps. It follows the configuration: a machine starts on the driver
// that is configured then, and stops on the driver that started it.
type drivers struct {
	out io.Writer

	mu   sync.Mutex
	of   map[string]*process.Driver // by the name of a driver
	spec map[string]config.Driver
	apps map[balance.AppID]string // the name of each app's driver
	runs map[balance.MachineKey]*process.Driver
	all  []*process.Driver
	more chan struct{} // closed when a driver is added
}

var _ node.Driver = (*drivers)(nil)

func newDrivers(f *config.File, out io.Writer) (*drivers, error) {
	d := &drivers{
		out: out, of: map[string]*process.Driver{}, spec: map[string]config.Driver{},
		runs: map[balance.MachineKey]*process.Driver{}, more: make(chan struct{}),
	}
	return d, d.follow(f)
}

// follow takes over the drivers of f; after an error nothing has changed.
func (d *drivers) follow(f *config.File) error {
	fresh := map[string]*process.Driver{}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(f.Drivers)) {
		c := f.Drivers[name]
		d.mu.Lock()
		same := reflect.DeepEqual(d.spec[name], c)
		d.mu.Unlock()
		if same {
			continue
		}
		pc := process.Config{
			Command: c.Command, Argv: c.Argv, Env: c.Env, Dir: c.Dir, StopTimeout: c.StopTimeout,
		}
		if c.Print {
			pc.Output = d.out
		}
		one, err := process.New(pc)
		if err != nil {
			errs = append(errs, fmt.Errorf("drivers.%s: %w", name, err))
			continue
		}
		fresh[name] = one
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, one := range fresh {
		d.of[name], d.spec[name] = one, f.Drivers[name]
		d.all = append(d.all, one)
	}
	d.apps = map[balance.AppID]string{}
	for id, a := range f.Apps {
		d.apps[balance.AppID(id)] = a.Driver
	}
	close(d.more)
	d.more = make(chan struct{})
	return nil
}

// Start implements [machine.Driver], as do Stop, Suspend and Watch.
func (d *drivers) Start(ctx context.Context, m balance.Machine) (machine.Booting, error) {
	d.mu.Lock()
	one := d.runs[m.Key()]
	if one == nil || m.State != balance.StateSuspended {
		if name := d.apps[m.App]; d.of[name] != nil {
			one = d.of[name]
			d.runs[m.Key()] = one
		}
	}
	d.mu.Unlock()
	if one == nil {
		return machine.Booting{}, fmt.Errorf("app %q has no driver any more", m.App)
	}
	return one.Start(ctx, m)
}

// runsAt returns the driver that started a machine; nil if none did.
func (d *drivers) runsAt(m balance.Machine) *process.Driver {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.runs[m.Key()]
}

func (d *drivers) Stop(ctx context.Context, m balance.Machine) error {
	if one := d.runsAt(m); one != nil {
		return one.Stop(ctx, m)
	}
	return nil
}

func (d *drivers) Suspend(ctx context.Context, m balance.Machine) error {
	if one := d.runsAt(m); one != nil {
		return one.Suspend(ctx, m)
	}
	return fmt.Errorf("machine %v does not run", m.Key())
}

// Inspect implements [machine.Inspector].
func (d *drivers) Inspect(ctx context.Context, m balance.Machine) error {
	if one := d.runsAt(m); one != nil {
		return one.Inspect(ctx, m)
	}
	return errors.ErrUnsupported
}

// Describe implements [machine.Describer].
func (d *drivers) Describe(ctx context.Context, m balance.Machine) (machine.Description, error) {
	if one := d.runsAt(m); one != nil {
		return one.Describe(ctx, m)
	}
	return machine.Description{}, errors.ErrUnsupported
}

func (d *drivers) Watch(ctx context.Context, exited func(machine.Exit)) error {
	ctx, stop := context.WithCancel(ctx)
	var watches sync.WaitGroup
	defer watches.Wait()
	defer stop()
	failed := make(chan error, 1)
	for seen := 0; ; {
		d.mu.Lock()
		all, more := d.all[seen:], d.more
		d.mu.Unlock()
		seen += len(all)
		for _, one := range all {
			watches.Go(func() {
				if err := one.Watch(ctx, exited); err != nil {
					select {
					case failed <- err:
					default:
					}
				}
			})
		}
		select {
		case <-more:
		case err := <-failed:
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

// Shutdown implements [node.Driver].
func (d *drivers) Shutdown(ctx context.Context) error {
	d.mu.Lock()
	all := slices.Clone(d.all)
	d.mu.Unlock()
	errs := make([]error, len(all))
	var ends sync.WaitGroup
	for i, one := range all {
		ends.Go(func() { errs[i] = one.Shutdown(ctx) })
	}
	ends.Wait()
	return errors.Join(errs...)
}
