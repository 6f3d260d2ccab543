package node

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/balance"
	"golang.org/x/sync/errgroup"
)

// drivers is the driver of all apps: each call goes to the driver of the machine's app.
type drivers struct {
	usual Driver
	of    map[balance.AppID]Driver
	all   []Driver // each driver once
}

func newDrivers(c *Config) *drivers {
	d := &drivers{usual: c.Driver, of: map[balance.AppID]Driver{}}
	add := func(one Driver) {
		if one != nil && !slices.ContainsFunc(d.all, func(o Driver) bool { return same(o, one) }) {
			d.all = append(d.all, one)
		}
	}
	add(c.Driver)
	for _, a := range c.Apps {
		if a.Driver != nil {
			d.of[a.ID] = a.Driver
			add(a.Driver)
		}
	}
	return d
}

func same(a, b Driver) bool {
	return reflect.ValueOf(a).Comparable() && reflect.ValueOf(b).Comparable() && a == b
}

func (d *drivers) driver(app balance.AppID) (Driver, error) {
	if one, ok := d.of[app]; ok {
		return one, nil
	}
	if d.usual == nil {
		return nil, fmt.Errorf("node: app %q has no driver: set Config.Driver", app)
	}
	return d.usual, nil
}

// Start implements [machine.Driver], as do Stop, Suspend and Watch.
func (d *drivers) Start(ctx context.Context, m balance.Machine) (machine.Booting, error) {
	one, err := d.driver(m.App)
	if err != nil {
		return machine.Booting{}, err
	}
	return one.Start(ctx, m)
}

func (d *drivers) Stop(ctx context.Context, m balance.Machine) error {
	one, err := d.driver(m.App)
	if err != nil {
		return err
	}
	return one.Stop(ctx, m)
}

func (d *drivers) Suspend(ctx context.Context, m balance.Machine) error {
	one, err := d.driver(m.App)
	if err != nil {
		return err
	}
	return one.Suspend(ctx, m)
}

// Watch ends when one driver's Watch fails: the starter then watches all of them again.
func (d *drivers) Watch(ctx context.Context, exited func(machine.Exit)) error {
	g, watch := errgroup.WithContext(ctx)
	for _, one := range d.all {
		g.Go(func() error {
			if err := one.Watch(watch, exited); err != nil || watch.Err() != nil {
				return err
			}
			return errors.New("it returned early")
		})
	}
	if len(d.all) == 0 {
		<-ctx.Done()
	}
	return g.Wait()
}

// Inspect implements [machine.Inspector] as far as the app's driver does.
func (d *drivers) Inspect(ctx context.Context, m balance.Machine) error {
	if one, _ := d.driver(m.App); one != nil {
		if i, ok := one.(machine.Inspector); ok {
			return i.Inspect(ctx, m)
		}
	}
	return errors.ErrUnsupported
}

// Describe implements [machine.Describer] as far as the app's driver does.
func (d *drivers) Describe(ctx context.Context, m balance.Machine) (machine.Description, error) {
	if one, _ := d.driver(m.App); one != nil {
		if i, ok := one.(machine.Describer); ok {
			return i.Describe(ctx, m)
		}
	}
	return machine.Description{}, errors.ErrUnsupported
}

// Await implements [machine.Readiness] as far as the app's driver does.
func (d *drivers) Await(ctx context.Context, m balance.Machine) error {
	if one, _ := d.driver(m.App); one != nil {
		if i, ok := one.(machine.Readiness); ok {
			return i.Await(ctx, m)
		}
	}
	return errors.ErrUnsupported
}

// List implements [machine.Lister] with the drivers that implement it. A driver that cannot list
// contributes no machines.
func (d *drivers) List(ctx context.Context) (all []machine.Running, err error) {
	for _, one := range d.all {
		if l, ok := one.(machine.Lister); ok {
			some, err := l.List(ctx)
			if err != nil {
				return nil, err
			}
			all = append(all, some...)
		}
	}
	return all, nil
}

// shutdown ends all machines.
func (d *drivers) shutdown(ctx context.Context) error {
	errs := make([]error, len(d.all))
	var g errgroup.Group
	for i, one := range d.all {
		g.Go(func() error { errs[i] = one.Shutdown(ctx); return nil })
	}
	g.Wait() //nolint:errcheck // they are in errs: one failure is no reason to leave others running
	return errors.Join(errs...)
}
