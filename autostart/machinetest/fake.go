package machinetest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/balance"
)

// Fake is a scripted [machine.Driver] for tests: its machines live in memory and listen nowhere.
// Time passes by timers, so that it works in a bubble of testing/synctest. It is a
// [machine.Readiness] and a [machine.Lister] too, and [Fake.Check] is the check of its machines:
//
//	fake := &machinetest.Fake{}
//	starter, err := machine.NewStarter(fleet, fake, machine.Config{
//		Check: machine.Check{Func: fake.Check},
//	})
//
// The zero value is ready for use: machines are ready at once, and run until they are stopped. Set
// the fields before the first call; each is called with no lock held, and may block or panic as a
// bad driver does. All methods are safe for concurrent use.
type Fake struct {
	// OnStart returns how long m boots, or the error with which its start fails.
	OnStart func(ctx context.Context, m balance.Machine) (boot time.Duration, err error)
	// OnStop returns the error with which a stop fails; the machine then runs on.
	OnStop func(ctx context.Context, m balance.Machine) error
	// OnSuspend returns the error with which a suspension fails; the machine then runs on.
	OnSuspend func(ctx context.Context, m balance.Machine) error
	// OnList returns the error with which a List fails.
	OnList func(ctx context.Context) error

	mu       sync.Mutex
	machines map[balance.MachineKey]*memory
	watchers map[uint64]func(machine.Exit)
	watches  uint64
	calls    []string
}

// memory is a machine of a Fake that exists.
type memory struct {
	running machine.Running
	boot    *time.Timer   // nil when it boots at once
	ready   chan struct{} // closed when it has booted
	gone    chan struct{} // closed when it has ended, or is started anew
	sick    error         // what its checks find
}

// begin begins a boot.
func (m *memory) begin(boot time.Duration) {
	m.ready, m.gone, m.boot = make(chan struct{}), make(chan struct{}), nil
	ready := m.ready
	if boot <= 0 {
		close(ready)
		return
	}
	m.boot = time.AfterFunc(boot, func() { close(ready) })
}

// end ends what begin has begun.
func (m *memory) end() {
	if m.boot != nil {
		m.boot.Stop()
	}
	close(m.gone)
}

// up reports whether it has booted and is not suspended.
func (m *memory) up() bool {
	select {
	case <-m.ready:
		return !m.running.Suspended
	default:
		return false
	}
}

// Start implements [machine.Driver].
func (f *Fake) Start(ctx context.Context, m balance.Machine) (machine.Booting, error) {
	f.called("start", m)
	var boot time.Duration
	if f.OnStart != nil {
		var err error
		if boot, err = f.OnStart(ctx, m); err != nil {
			return machine.Booting{}, err
		}
	}
	if err := ctx.Err(); err != nil {
		return machine.Booting{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	is := f.machines[m.Key()]
	resumed := is != nil
	switch {
	case is == nil:
		is = &memory{}
	case !is.running.Suspended:
		return machine.Booting{}, fmt.Errorf(
			"machinetest: start %v: it runs already, since epoch %d", m.Key(), is.running.Epoch,
		)
	default:
		is.end()
	}
	is.running = machine.Running{
		App: m.App, ID: m.ID, Epoch: m.Epoch,
		Addr: net.JoinHostPort(fmt.Sprintf("%s.%s", m.ID, m.App), "80"),
	}
	is.begin(boot)
	if f.machines == nil {
		f.machines = map[balance.MachineKey]*memory{}
	}
	f.machines[m.Key()] = is
	return machine.Booting{Addr: is.running.Addr, Resumed: resumed}, nil
}

// Stop implements [machine.Driver].
func (f *Fake) Stop(ctx context.Context, m balance.Machine) error {
	f.called("stop", m)
	if f.OnStop != nil {
		if err := f.OnStop(ctx, m); err != nil {
			return err
		}
	}
	f.Exit(machine.Exit{
		App: m.App, ID: m.ID, Code: -1, Signal: "terminated", Reason: "killed by signal: terminated",
	})
	return nil
}

// Suspend implements [machine.Driver].
func (f *Fake) Suspend(ctx context.Context, m balance.Machine) error {
	f.called("suspend", m)
	if f.OnSuspend != nil {
		if err := f.OnSuspend(ctx, m); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	is := f.machines[m.Key()]
	if is == nil {
		return fmt.Errorf("machinetest: suspend %v: it does not run", m.Key())
	}
	is.running.Suspended = true
	return nil
}

// Watch implements [machine.Driver]. Exits while nobody watches are not reported.
func (f *Fake) Watch(ctx context.Context, exited func(machine.Exit)) error {
	f.mu.Lock()
	f.watches++
	n := f.watches
	if f.watchers == nil {
		f.watchers = map[uint64]func(machine.Exit){}
	}
	f.watchers[n] = exited
	f.mu.Unlock()
	<-ctx.Done()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.watchers, n)
	return nil
}

// List implements [machine.Lister]; the machines are in the order of their apps and IDs.
func (f *Fake) List(ctx context.Context) (all []machine.Running, err error) {
	if f.OnList != nil {
		if err := f.OnList(ctx); err != nil {
			return nil, err
		}
	}
	f.mu.Lock()
	for _, m := range f.machines {
		all = append(all, m.running)
	}
	f.mu.Unlock()
	slices.SortFunc(all, func(a, b machine.Running) int {
		return cmp.Or(cmp.Compare(a.App, b.App), cmp.Compare(a.ID, b.ID))
	})
	return all, nil
}

// Await implements [machine.Readiness]: it returns nil when m has booted, and an error when m ends
// first.
func (f *Fake) Await(ctx context.Context, m balance.Machine) error {
	f.mu.Lock()
	is := f.machines[m.Key()]
	if is == nil {
		f.mu.Unlock()
		return errors.New("it does not run")
	}
	ready, gone := is.ready, is.gone
	f.mu.Unlock()
	select {
	case <-ready:
		return nil
	case <-gone:
		return errors.New("it has ended")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Check is a [machine.Check].Func: it returns nil when m has booted and runs, the error set by
// [Fake.Sicken] if there is one, and a refused connection when m does not run.
func (f *Fake) Check(_ context.Context, m balance.Machine) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	is := f.machines[m.Key()]
	if is == nil || !is.up() {
		return &net.OpError{
			Op: "dial", Net: "tcp", Addr: addr(m.Addr), Err: os.NewSyscallError("connect", syscall.ECONNREFUSED),
		}
	}
	return is.sick
}

// addr is the address of a machine that listens nowhere.
type addr string

func (addr) Network() string  { return "tcp" }
func (a addr) String() string { return string(a) }

// Sicken makes the checks of a machine return err from now on, until it ends. nil makes them pass
// again.
func (f *Fake) Sicken(app balance.AppID, id balance.MachineID, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if is := f.machines[balance.MachineKey{App: app, ID: id}]; is != nil {
		is.sick = err
	}
}

// Exit ends the machine that e names, as if by itself, and reports it to every Watch. The epoch is
// the machine's. If it does not run, nothing happens.
func (f *Fake) Exit(e machine.Exit) {
	key := balance.MachineKey{App: e.App, ID: e.ID}
	f.mu.Lock()
	is := f.machines[key]
	if is == nil {
		f.mu.Unlock()
		return
	}
	delete(f.machines, key)
	is.end()
	e.Epoch = is.running.Epoch
	var told []func(machine.Exit)
	for _, w := range f.watchers {
		told = append(told, w)
	}
	f.mu.Unlock()
	for _, w := range told {
		w(e)
	}
}

// Calls returns the calls of Start, Stop and Suspend so far, in their order, each as
// "start app/id@epoch".
func (f *Fake) Calls() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

func (f *Fake) called(what string, m balance.Machine) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, fmt.Sprintf("%s %v@%d", what, m.Key(), m.Epoch))
}
