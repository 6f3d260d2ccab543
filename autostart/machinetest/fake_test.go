package machinetest_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/balance"
)

// fake is a driver whose machines are listeners of this process. fault makes it break one clause.
type fake struct {
	fault string

	mu       sync.Mutex
	machines map[balance.MachineKey]*listener
	watchers map[int]func(machine.Exit)
	next     int
	throttle bool
	ended    map[balance.MachineKey]bool
	deaf     chan struct{} // closed at the end
}

// listener is a fake machine that runs or is suspended.
type listener struct {
	net.Listener
	epoch, cold uint64 // of the last start, and of the last that was not a resume
	suspended   bool
	ctx         context.Context // of its start
}

func newFake(fault string) *fake {
	return &fake{
		fault: fault, machines: make(map[balance.MachineKey]*listener),
		watchers: make(map[int]func(machine.Exit)), deaf: make(chan struct{}),
		ended: make(map[balance.MachineKey]bool),
	}
}

// key is what a machine is known by.
func (f *fake) key(m balance.Machine) balance.MachineKey {
	if f.fault == "known by ID alone" {
		m.App = ""
	}
	return m.Key()
}

// List implements machine.Lister.
func (f *fake) List(context.Context) (all []machine.Running, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for k, l := range f.machines {
		r := machine.Running{
			App: k.App, ID: k.ID, Epoch: l.epoch, Addr: l.Addr().String(), Suspended: l.suspended,
		}
		switch f.fault {
		case "lists nothing":
			continue
		case "lists without epochs":
			r.Epoch = 0
		case "lists the suspended as running":
			r.Suspended = false
		}
		all = append(all, r)
	}
	if f.fault == "lists what has ended" {
		for k := range f.ended {
			all = append(all, machine.Running{App: k.App, ID: k.ID})
		}
	}
	return all, nil
}

// Inspect implements machine.Inspector.
func (f *fake) Inspect(_ context.Context, m balance.Machine) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.machines[f.key(m)]
	switch {
	case f.fault == "cannot suspend":
		return fmt.Errorf("inspect: %w", errors.ErrUnsupported)
	case f.fault == "always says that it runs":
		return nil
	case l == nil || l.suspended || f.fault == "runs, and says it does not":
		return fmt.Errorf("%s does not run", m.ID)
	}
	return nil
}

func (f *fake) Start(ctx context.Context, m balance.Machine) (machine.Booting, error) {
	if f.fault == "deaf to its context" {
		<-f.deaf
	}
	if f.fault == "waits until ready" && silent(m) {
		<-ctx.Done()
		return machine.Booting{}, ctx.Err()
	}
	// late, as a driver would that is told by a goroutine of its own
	if f.fault == "ends with context" {
		f.endOrphans(f.key(m))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if l := f.machines[f.key(m)]; l != nil {
		if !l.suspended {
			switch f.fault {
			case "starts twice":
				return machine.Booting{Addr: l.Addr().String()}, nil
			case "refused start changes epoch":
				l.epoch = m.Epoch
			case "refused start ends machine":
				_ = l.Close()
			}
			return machine.Booting{}, fmt.Errorf("%s already runs", m.ID)
		}
		l.suspended, l.epoch = false, m.Epoch
		resumed := f.fault != "resume called cold"
		return machine.Booting{Addr: l.Addr().String(), Resumed: resumed}, nil
	}
	if ctx.Err() != nil && f.fault != "cancelled start fails but runs" {
		return machine.Booting{}, ctx.Err()
	}
	throttled := f.throttle && f.fault != "knows no limits"
	if throttled && f.fault != "starts what it refuses" {
		return machine.Booting{}, f.later()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return machine.Booting{}, err
	}
	if silent(m) {
		_ = l.Close()
	}
	f.machines[f.key(m)] = &listener{Listener: l, epoch: m.Epoch, cold: m.Epoch, ctx: ctx}
	addr := l.Addr().String()
	switch f.fault {
	case "one address for all":
		for _, other := range f.machines {
			addr = min(addr, other.Addr().String())
		}
	case "no address":
		addr = ""
	}
	if throttled {
		return machine.Booting{}, f.later()
	}
	return machine.Booting{Addr: addr}, ctx.Err()
}

// later is the error of a driver that may not make more calls now.
func (f *fake) later() error {
	switch f.fault {
	case "passing errors look like others":
		return errors.New("429")
	case "in the past":
		return &machine.TryAgain{After: -time.Second}
	}
	return fmt.Errorf("fake: %w", machine.TryAgain{After: time.Second})
}

// silent reports whether m never listens.
func silent(m balance.Machine) bool { return strings.HasPrefix(string(m.ID), "silent") }

func (f *fake) Stop(_ context.Context, m balance.Machine) error {
	f.mu.Lock()
	l := f.machines[f.key(m)]
	if l == nil {
		f.mu.Unlock()
		if f.fault == "stop of nothing fails" {
			return errors.New("not running")
		}
		return nil
	}
	if f.fault == "suspended cannot stop" && l.suspended {
		f.mu.Unlock()
		return errors.New("suspended")
	}
	delete(f.machines, f.key(m))
	if f.fault != "stop leaves it" {
		_ = l.Close()
	}
	f.mu.Unlock()
	f.report(m.Key(), l)
	return nil
}

// endOrphans ends all machines but one whose starts' contexts have ended.
func (f *fake) endOrphans(but balance.MachineKey) {
	f.mu.Lock()
	var ended []balance.MachineKey
	for k, l := range f.machines {
		if k != but && l.ctx.Err() != nil {
			ended = append(ended, k)
		}
	}
	f.mu.Unlock()
	for _, k := range ended {
		f.crash(k)
	}
}

// crash ends a machine by itself.
func (f *fake) crash(k balance.MachineKey) {
	f.mu.Lock()
	l := f.machines[k]
	delete(f.machines, k)
	f.mu.Unlock()
	if l != nil {
		_ = l.Close()
		if f.fault != "crash unseen" {
			f.report(k, l)
		}
	}
}

func (f *fake) Suspend(_ context.Context, m balance.Machine) error {
	if f.fault == "cannot suspend" {
		return fmt.Errorf("fake: %w", errors.ErrUnsupported)
	}
	f.mu.Lock()
	l := f.machines[f.key(m)]
	f.mu.Unlock()
	switch {
	case f.fault == "unsupported suspend ends it":
		_ = f.Stop(context.Background(), m)
		return fmt.Errorf("fake: %w", errors.ErrUnsupported)
	case f.fault == "suspend fails":
		return errors.New("no")
	case l == nil && f.fault == "suspends nothing":
		return nil
	case l == nil:
		return errors.New("not running")
	}
	l.suspended = true
	if f.fault == "suspension is an exit" {
		f.report(m.Key(), l)
	}
	return nil
}

// report tells the watchers that l has ended.
func (f *fake) report(k balance.MachineKey, l *listener) {
	e := machine.Exit{App: k.App, ID: k.ID, Epoch: l.epoch, Code: 0, Reason: "exit status 0"}
	times := 1
	switch f.fault {
	case "no exits":
		return
	case "every exit twice":
		times = 2
	case "no app":
		e.App = ""
	case "no reason":
		e.Reason = ""
	case "code beside signal":
		e.Signal = "killed"
	case "epoch of the cold start":
		e.Epoch = l.cold
	}
	f.mu.Lock()
	f.ended[k] = true
	var told []func(machine.Exit)
	for i := range f.next {
		if w := f.watchers[i]; w != nil && (f.fault != "one watch only" || len(told) == 0) {
			told = append(told, w)
		}
	}
	if f.fault == "calls with lock held" {
		defer f.mu.Unlock()
	} else {
		f.mu.Unlock()
	}
	for range times {
		for _, w := range told {
			w(e)
		}
	}
}

func (f *fake) Watch(ctx context.Context, exited func(machine.Exit)) error {
	f.mu.Lock()
	n := f.next
	f.next++
	f.watchers[n] = exited
	f.mu.Unlock()
	<-ctx.Done()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.watchers, n)
	if f.fault == "watch returns an error" {
		return ctx.Err()
	}
	return nil
}

// Close ends what a failed clause has left.
func (f *fake) Close() {
	close(f.deaf)
	if !f.mu.TryLock() {
		return // by the fault "calls with lock held"
	}
	defer f.mu.Unlock()
	for _, l := range f.machines {
		_ = l.Close()
	}
}
