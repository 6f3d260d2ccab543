package machinetest_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/autostart/machinetest"
	"github.com/ebbkit/ebb/balance"
)

// driver is a Fake with a fault, which makes it break one clause.
type driver struct {
	*machinetest.Fake
	fault string
	deaf  chan struct{} // closed at the end

	mu       sync.Mutex
	throttle bool
	watchers []func(machine.Exit)
	starts   map[balance.MachineKey]context.Context // their contexts
	epochs   map[balance.MachineKey]uint64          // wrong epochs to report exits with
	ended    map[balance.MachineKey]bool
	left     map[string]bool // addresses that are still listened at
}

func newDriver(fault string) *driver {
	d := &driver{
		Fake: &machinetest.Fake{}, fault: fault, deaf: make(chan struct{}),
		starts: map[balance.MachineKey]context.Context{}, epochs: map[balance.MachineKey]uint64{},
		ended: map[balance.MachineKey]bool{}, left: map[string]bool{},
	}
	d.OnStart = func(_ context.Context, m balance.Machine) (boot time.Duration, err error) {
		if silent(m) {
			boot = time.Hour
		}
		return boot, nil
	}
	return d
}

// silent reports whether m never listens.
func silent(m balance.Machine) bool { return strings.HasPrefix(string(m.ID), "silent") }

// find returns m as the driver knows it, and its running machine.
func (d *driver) find(m balance.Machine) (balance.Machine, machine.Running, bool) {
	if d.fault == "known by ID alone" {
		m.App = ""
	}
	all, _ := d.Fake.List(context.Background())
	for _, r := range all {
		if r.App == m.App && r.ID == m.ID {
			return m, r, true
		}
	}
	return m, machine.Running{}, false
}

// dial reports whether a machine listens at addr.
func (d *driver) dial(ctx context.Context, addr string) error {
	d.mu.Lock()
	left := d.left[addr]
	d.mu.Unlock()
	if left {
		return nil
	}
	all, _ := d.Fake.List(ctx)
	for _, r := range all {
		if r.Addr == addr {
			return d.Check(ctx, balance.Machine{App: r.App, ID: r.ID, Addr: addr})
		}
	}
	return errors.New("nothing listens at " + addr)
}

func (d *driver) List(ctx context.Context) ([]machine.Running, error) {
	all, err := d.Fake.List(ctx)
	switch d.fault {
	case "lists nothing":
		return nil, err
	case "lists what has ended":
		d.mu.Lock()
		defer d.mu.Unlock()
		for k := range d.ended {
			all = append(all, machine.Running{App: k.App, ID: k.ID})
		}
	}
	for i := range all {
		switch d.fault {
		case "lists without epochs":
			all[i].Epoch = 0
		case "lists the suspended as running":
			all[i].Suspended = false
		}
	}
	return all, err
}

// Inspect implements machine.Inspector.
func (d *driver) Inspect(_ context.Context, m balance.Machine) error {
	_, r, runs := d.find(m)
	switch {
	case d.fault == "cannot suspend":
		return fmt.Errorf("inspect: %w", errors.ErrUnsupported)
	case d.fault == "always says that it runs":
		return nil
	case !runs || r.Suspended || d.fault == "runs, and says it does not":
		return fmt.Errorf("%s does not run", m.ID)
	}
	return nil
}

func (d *driver) Start(ctx context.Context, m balance.Machine) (machine.Booting, error) {
	switch {
	case d.fault == "deaf to its context":
		<-d.deaf
	case d.fault == "waits until ready" && silent(m):
		<-ctx.Done()
		return machine.Booting{}, ctx.Err()
	case d.fault == "ends with context":
		d.endOrphans(m.Key()) // late, as in a driver that notices it in a goroutine of its own
	}
	m, r, runs := d.find(m)
	d.mu.Lock()
	defer d.mu.Unlock()
	if runs && !r.Suspended {
		switch d.fault {
		case "starts twice":
			return machine.Booting{Addr: r.Addr}, nil
		case "refused start changes epoch":
			d.epochs[m.Key()] = m.Epoch
		case "refused start ends machine":
			d.Sicken(m.App, m.ID, errors.New("it has gone"))
		}
	}
	throttled := d.throttle && !runs && d.fault != "knows no limits"
	if throttled && d.fault != "starts what it refuses" {
		return machine.Booting{}, d.later()
	}
	life := ctx
	if d.fault == "cancelled start fails but runs" {
		life = context.WithoutCancel(ctx)
	}
	b, err := d.Fake.Start(life, m)
	switch {
	case err != nil:
		return b, err
	case throttled:
		return machine.Booting{}, d.later()
	case ctx.Err() != nil:
		return machine.Booting{}, ctx.Err()
	}
	if d.starts[m.Key()] = ctx; d.fault == "epoch of the cold start" && !b.Resumed {
		d.epochs[m.Key()] = m.Epoch
	}
	switch d.fault {
	case "one address for all":
		b.Addr = "all.app:80"
		d.left[b.Addr] = true
	case "no address":
		b.Addr = ""
	case "resume called cold":
		b.Resumed = false
	}
	return b, nil
}

// later is the error of a driver that has reached its limit of calls.
func (d *driver) later() error {
	switch d.fault {
	case "passing errors look like others":
		return errors.New("429")
	case "in the past":
		return &machine.TryAgain{After: -time.Second}
	}
	return fmt.Errorf("driver: %w", machine.TryAgain{After: time.Second})
}

// endOrphans ends all machines, except one, whose starts' contexts have ended.
func (d *driver) endOrphans(but balance.MachineKey) {
	d.mu.Lock()
	var ended []balance.MachineKey
	for k, ctx := range d.starts {
		if k != but && ctx.Err() != nil {
			ended = append(ended, k)
		}
	}
	d.mu.Unlock()
	for _, k := range ended {
		d.crash(k)
	}
}

// crash ends a machine by itself.
func (d *driver) crash(k balance.MachineKey) {
	d.Exit(machine.Exit{App: k.App, ID: k.ID, Code: 1, Reason: "exit status 1"})
}

func (d *driver) Stop(ctx context.Context, m balance.Machine) error {
	m, r, runs := d.find(m)
	d.mu.Lock()
	switch {
	case d.fault == "stop of nothing fails" && !runs:
		d.mu.Unlock()
		return errors.New("not running")
	case d.fault == "suspended cannot stop" && r.Suspended:
		d.mu.Unlock()
		return errors.New("suspended")
	case d.fault == "stop leaves it" && runs:
		d.left[r.Addr] = true
	}
	d.mu.Unlock()
	return d.Fake.Stop(ctx, m)
}

func (d *driver) Suspend(ctx context.Context, m balance.Machine) error {
	switch d.fault {
	case "cannot suspend":
		return fmt.Errorf("driver: %w", errors.ErrUnsupported)
	case "unsupported suspend ends it":
		_ = d.Stop(ctx, m)
		return fmt.Errorf("driver: %w", errors.ErrUnsupported)
	case "suspend fails":
		return errors.New("no")
	}
	m, r, runs := d.find(m)
	if !runs && d.fault == "suspends nothing" {
		return nil
	}
	if d.fault == "suspension is an exit" {
		d.mu.Lock()
		told := d.watchers
		d.mu.Unlock()
		for _, exited := range told {
			exited(machine.Exit{App: m.App, ID: m.ID, Epoch: r.Epoch, Reason: "suspended"})
		}
	}
	return d.Fake.Suspend(ctx, m)
}

func (d *driver) Watch(ctx context.Context, exited func(machine.Exit)) error {
	d.mu.Lock()
	first := len(d.watchers) == 0
	d.watchers = append(d.watchers, exited)
	d.mu.Unlock()
	err := d.Fake.Watch(ctx, func(e machine.Exit) {
		if d.fault != "one watch only" || first {
			d.report(e, exited)
		}
	})
	if d.fault == "watch returns an error" {
		return ctx.Err()
	}
	return err
}

// report reports to a Watch that a machine has ended.
func (d *driver) report(e machine.Exit, exited func(machine.Exit)) {
	key := balance.MachineKey{App: e.App, ID: e.ID}
	d.mu.Lock()
	d.ended[key] = true
	if epoch, wrong := d.epochs[key]; wrong {
		e.Epoch = epoch
	}
	if d.fault == "calls with lock held" {
		defer d.mu.Unlock()
	} else {
		d.mu.Unlock()
	}
	switch d.fault {
	case "no exits":
		return
	case "crash unseen":
		if e.Code == 1 {
			return
		}
	case "every exit twice":
		exited(e)
	case "no app":
		e.App = ""
	case "no reason":
		e.Reason = ""
	case "code beside signal":
		e.Code, e.Signal = 0, "killed"
	}
	exited(e)
}

// Close ends what a failed clause has left.
func (d *driver) Close() { close(d.deaf) }
