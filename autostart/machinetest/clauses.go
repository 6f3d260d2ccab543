package machinetest

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/balance"
)

// clauses are the contract: a name for the subtest, the sentence that a failure quotes, and the
// check.
var clauses = []struct {
	name  string
	text  string
	check func(*bench)
}{
	{"Start/boots", "Start boots a machine and returns the address, host:port, where it will listen", boots},
	{"Start/running", "Start on a machine that already runs is an error, and the machine runs on", startTwice},
	{"Start/outlives", "a machine outlives the context of its Start", outlives},
	{"Start/again", "a machine that was stopped can be started again, at the next epoch", startAgain},
	{"Start/cancelled", "Start with a context that has ended either works or returns an error and starts nothing", startCancelled},
	{"Start/cut", "Start returns when its context ends; after an error Stop leaves nothing behind, and Start can be called again", startCut},
	{"Start/exists", "Start returns as soon as the machine exists, within 30 s, also where it never becomes ready", startExists},
	{"Start/passing", "an error that passes by itself is a machine.TryAgain and starts nothing; the same Start works later", startPassing},
	{"Stop/gone", "Stop ends a machine and returns when it is gone", stopGone},
	{"Stop/idle", "stopping a machine that does not run is no error", stopIdle},
	{"Stop/epoch", "an exit carries the machine's app and ID, the epoch of the start that ended, and a reason", exitFields},
	{"Suspend/resume", "Suspend freezes a machine so that a later Start resumes it; a driver that cannot returns an error matching errors.ErrUnsupported", suspendResume},
	{"Suspend/unsupported", "after a Suspend that is not supported the machine still runs", suspendUnsupported},
	{"Suspend/idle", "suspending a machine that does not run is an error", suspendIdle},
	{"Suspend/stop", "Stop ends a suspended machine, and its next start is a cold boot", suspendStop},
	{"Suspend/epoch", "a suspension is no exit; the exit carries the epoch of the last resume", suspendEpoch},
	{"Watch/ends", "Watch runs until its context ends and then returns nil", watchEnds},
	{"Watch/once", "Watch reports every machine that ends, once for each start", watchOnce},
	{"Watch/several", "each of several Watches is told", watchSeveral},
	{"Watch/crash", "Watch reports a machine that ended by itself, which can then be started again", watchCrash},
	{"Watch/calls", "exited may call the driver", watchCalls},
	{"Inspect/runs", "where the driver can be asked whether a machine runs, it says that it does, also after a resume", inspectRuns},
	{"Inspect/ended", "where the driver can be asked whether a machine runs, it says why not when it has ended", inspectEnded},
	{"List/runs", "where the driver lists machines, it lists each that runs or is suspended with its address and the epoch of its last start or resume", listRuns},
	{"List/ended", "where the driver lists machines, it lists none that has ended", listEnded},
	{"Machines/apart", "operations on different machines may run at once, and each machine has its own address", apart},
	{"Machines/apps", "a machine is known by its app and its ID: two apps may each have a machine of the same ID", sameID},
}

// inspects returns what the driver's Inspect says of m; ok is false when it has none.
func (b *bench) inspects(m balance.Machine) (err error, ok bool) {
	i, ok := b.Driver.(bounded).Driver.(machine.Inspector)
	if !ok {
		return nil, false
	}
	err = b.Driver.(bounded).bound(func() error { return i.Inspect(b.ctx, m) })
	return err, !errors.Is(err, errors.ErrUnsupported)
}

func inspectRuns(b *bench) {
	m := b.NewMachine()
	b.start(&m, false)
	err, ok := b.inspects(m)
	if !ok {
		b.Skip("the driver is no machine.Inspector")
	}
	if err != nil {
		b.broken("Inspect(%s), which runs: %v", m.ID, err)
	}
	if err := b.Driver.Suspend(b.ctx, m); err == nil {
		b.start(&m, true)
		if err, _ := b.inspects(m); err != nil {
			b.broken("Inspect(%s), which runs again after a suspension: %v", m.ID, err)
		}
	}
	b.stop(m)
}

func inspectEnded(b *bench) {
	m := b.NewMachine()
	b.start(&m, false)
	if _, ok := b.inspects(m); !ok {
		b.stop(m)
		b.Skip("the driver is no machine.Inspector")
	}
	b.stop(m)
	if err, _ := b.inspects(m); err == nil {
		b.broken("Inspect(%s), which was stopped, returned no error", m.ID)
	}
	if b.Crash == nil {
		return
	}
	m = b.NewMachine()
	w := b.watch()
	b.start(&m, false)
	b.crash(m)
	w.want(m)
	if err, _ := b.inspects(m); err == nil {
		b.broken("Inspect(%s), which has ended by itself, returned no error", m.ID)
	}
}

// listed returns what the driver lists of m, and skips the clause when it lists nothing.
func (b *bench) listed(m balance.Machine) (r machine.Running, ok bool) {
	b.Helper()
	l, lists := b.Driver.(bounded).Driver.(machine.Lister)
	if !lists {
		b.stop(m)
		b.Skip("the driver is no machine.Lister")
	}
	var all []machine.Running
	err := b.Driver.(bounded).bound(func() (err error) { all, err = l.List(b.ctx); return err })
	if err != nil {
		b.broken("List: %v", err)
	}
	for _, is := range all {
		if (balance.MachineKey{App: is.App, ID: is.ID}) != m.Key() {
			continue
		}
		if ok {
			b.broken("List returned %v twice", m.Key())
		}
		r, ok = is, true
	}
	return r, ok
}

// lists checks that the driver lists m as it is.
func (b *bench) lists(m balance.Machine, suspended bool) {
	b.Helper()
	want := machine.Running{App: m.App, ID: m.ID, Epoch: m.Epoch, Addr: m.Addr, Suspended: suspended}
	if got, ok := b.listed(m); !ok || got != want {
		b.broken("List said of %v %+v (%v), want %+v", m.Key(), got, ok, want)
	}
}

func listRuns(b *bench) {
	m := b.NewMachine()
	b.start(&m, false)
	b.lists(m, false)
	if err := b.Driver.Suspend(b.ctx, m); err == nil {
		b.lists(m, true)
		b.start(&m, true)
		b.lists(m, false)
	}
	b.stop(m)
}

func listEnded(b *bench) {
	m := b.NewMachine()
	b.start(&m, false)
	b.listed(m)
	b.stop(m)
	if got, ok := b.listed(m); ok {
		b.broken("List returned %+v, which was stopped", got)
	}
	if b.Crash == nil {
		return
	}
	w := b.watch()
	b.start(&m, false)
	b.crash(m)
	w.want(m)
	if got, ok := b.listed(m); ok {
		b.broken("List returned %+v, which has ended by itself", got)
	}
}

func boots(b *bench) {
	m := b.NewMachine()
	boot := b.start(&m, false)
	if host, port, err := net.SplitHostPort(boot.Addr); err != nil || host == "" || port == "" ||
		port == "0" {
		b.broken("Start(%s) returned the address %q (%v)", m.ID, boot.Addr, err)
	}
	b.stop(m)
}

func startTwice(b *bench) {
	m := b.NewMachine()
	b.start(&m, false)
	next := m
	next.Epoch++
	if boot, err := b.Driver.Start(b.ctx, next); err == nil {
		b.broken("a second Start(%s) returned %+v and no error", m.ID, boot)
	}
	b.listens(m)
	w := b.watch()
	b.stop(m)
	if e := w.want(m); e.Epoch != m.Epoch {
		b.broken("the refused Start changed the epoch of the exit to %d, want %d", e.Epoch, m.Epoch)
	}
}

func outlives(b *bench) {
	w := b.watch()
	m := b.NewMachine()
	m.Epoch++
	ctx, cancel := context.WithCancel(b.ctx)
	boot, err := b.Driver.Start(ctx, m)
	cancel()
	if err != nil {
		b.broken("Start(%s): %v", m.ID, err)
	}
	m.Addr = boot.Addr
	b.listens(m)
	// A driver may act some time after ctx has ended; the whole life of a second machine gives it that
	// time.
	other := b.NewMachine()
	b.start(&other, false)
	b.stop(other)
	w.want(other)
	b.listens(m)
	b.stop(m)
	w.want(m)
	w.wantOnce(start{other.Key(), 1}, start{m.Key(), 1})
}

func startAgain(b *bench) {
	w := b.watch()
	m := b.NewMachine()
	for range 3 {
		b.start(&m, false)
		b.stop(m)
		w.want(m)
	}
	w.wantOnce(start{m.Key(), 1}, start{m.Key(), 2}, start{m.Key(), 3})
}

func startCancelled(b *bench) {
	m := b.NewMachine()
	m.Epoch++
	ctx, cancel := context.WithCancel(b.ctx)
	cancel()
	boot, err := b.Driver.Start(ctx, m)
	if err == nil {
		m.Addr = boot.Addr
		b.listens(m)
		b.stop(m)
	}
	b.start(&m, false) // fails if the refused start has left a machine running
	b.stop(m)
}

// startCut cancels a start at any point of its work.
func startCut(b *bench) {
	for range 5 {
		m := b.NewMachine()
		m.Epoch++
		ctx, cancel := context.WithCancel(b.ctx)
		type answer struct {
			boot machine.Booting
			err  error
		}
		done := make(chan answer, 1)
		go func() {
			boot, err := b.Driver.Start(ctx, m)
			done <- answer{boot, err}
		}()
		_ = b.dial("127.0.0.1:1") // some time
		cancel()
		a := <-done
		switch m.Addr = a.boot.Addr; {
		case errors.Is(a.err, errBlocks):
			b.broken("Start(%s) goes on after its context has ended", m.ID)
		case a.err == nil:
			b.listens(m)
		}
		b.stop(m)
		b.start(&m, false)
		b.stop(m)
	}
}

func startExists(b *bench) {
	if b.NewSilent == nil {
		b.Skip("Subject.NewSilent is nil")
	}
	m := b.NewSilent()
	m.Epoch++
	ctx, cancel := context.WithTimeout(b.ctx, 30*time.Second)
	defer cancel()
	boot, err := b.Driver.Start(ctx, m)
	if err != nil {
		b.broken("Start(%s), which exists and never listens: %v", m.ID, err)
	}
	m.Addr = boot.Addr
	b.silent(m)
	b.stop(m)
}

func startPassing(b *bench) {
	if b.Throttle == nil {
		b.Skip("Subject.Throttle is nil")
	}
	m := b.NewMachine()
	m.Epoch++
	b.Throttle(true)
	boot, err := b.Driver.Start(b.ctx, m)
	value, isValue := errors.AsType[machine.TryAgain](err)
	pointer, isPointer := errors.AsType[*machine.TryAgain](err)
	switch {
	case err == nil:
		b.broken("Start(%s) returned %+v and no error", m.ID, boot)
	case !isValue && !isPointer:
		b.broken("Start(%s): %v", m.ID, err)
	case isValue && value.After < 0, isPointer && pointer.After < 0:
		b.broken("Start(%s): %v, which is to be tried again in the past", m.ID, err)
	}
	b.Throttle(false)
	m.Epoch-- // for the same epoch
	b.start(&m, false)
	b.stop(m)
	b.silent(m)
}

func stopGone(b *bench) {
	m := b.NewMachine()
	b.start(&m, false)
	b.stop(m)
	b.silent(m)
}

func stopIdle(b *bench) {
	m := b.NewMachine()
	b.stop(m) // never started
	b.start(&m, false)
	b.stop(m)
	b.stop(m)
}

func exitFields(b *bench) {
	w := b.watch()
	m := b.NewMachine()
	m.Epoch = 41
	b.start(&m, false)
	b.stop(m)
	checkExit(b, w.want(m))
}

// checkExit checks what every exit must hold.
func checkExit(b *bench, e machine.Exit) {
	b.Helper()
	if e.Reason == "" {
		b.broken("the exit %+v has no reason", e)
	}
	if (e.Code == -1) != (e.Signal != "") {
		b.broken("the exit %+v: the code must be -1 when a signal ended the machine, and only then", e)
	}
}

func suspendResume(b *bench) {
	m := b.NewMachine()
	b.start(&m, false)
	for range 3 {
		b.suspends(m)
		b.start(&m, true)
	}
	if boot, err := b.Driver.Start(b.ctx, m); err == nil {
		b.broken("Start(%s) of a machine that was resumed and runs returned %+v and no error", m.ID, boot)
	}
	b.stop(m)
	b.silent(m)
}

func suspendUnsupported(b *bench) {
	m := b.NewMachine()
	b.start(&m, false)
	if b.Driver.Suspend(b.ctx, m) == nil {
		b.stop(m)
		b.Skip("the driver suspends")
	}
	b.listens(m)
	b.stop(m)
}

func suspendIdle(b *bench) {
	m := b.NewMachine()
	if b.Driver.Suspend(b.ctx, m) == nil {
		b.broken("Suspend(%s), which never ran, returned no error", m.ID)
	}
	b.start(&m, false)
	b.stop(m)
	if b.Driver.Suspend(b.ctx, m) == nil {
		b.broken("Suspend(%s), which was stopped, returned no error", m.ID)
	}
}

func suspendStop(b *bench) {
	w := b.watch()
	m := b.NewMachine()
	b.start(&m, false)
	b.suspends(m)
	b.stop(m)
	w.want(m)
	b.start(&m, false)
	b.stop(m)
	w.want(m)
	w.wantOnce(start{m.Key(), 1}, start{m.Key(), 2})
}

func suspendEpoch(b *bench) {
	w := b.watch()
	m := b.NewMachine()
	b.start(&m, false)
	b.suspends(m)
	b.start(&m, true)
	b.suspends(m)
	b.start(&m, true)
	b.stop(m)
	checkExit(b, w.want(m))
	w.wantOnce(start{m.Key(), 3})
}

func watchEnds(b *bench) {
	w := b.watch()
	m := b.NewMachine()
	b.start(&m, false)
	b.stop(m)
	w.want(m)
	if err := w.end(); err != nil {
		b.broken("Watch: %v", err)
	}
}

func watchOnce(b *bench) {
	w := b.watch()
	var starts []start
	for range 3 {
		m := b.NewMachine()
		b.start(&m, false)
		b.stop(m)
		b.stop(m)
		w.want(m)
		starts = append(starts, start{m.Key(), m.Epoch})
	}
	w.wantOnce(starts...)
}

func watchSeveral(b *bench) {
	first, second := b.watch(), b.watch()
	m := b.NewMachine()
	b.start(&m, false)
	b.stop(m)
	first.want(m)
	second.want(m)
	if err := first.end(); err != nil {
		b.broken("Watch: %v", err)
	}
	b.start(&m, false)
	b.stop(m)
	second.want(m)
}

func watchCrash(b *bench) {
	if b.Crash == nil {
		b.Skip("Subject.Crash is nil")
	}
	w := b.watch()
	m := b.NewMachine()
	for range 2 {
		b.start(&m, false)
		b.crash(m)
		checkExit(b, w.want(m))
		b.stop(m)
	}
	w.wantOnce(start{m.Key(), 1}, start{m.Key(), 2})
}

func watchCalls(b *bench) {
	m := b.NewMachine()
	stopped := make(chan error, 1)
	w := b.watch(func(e machine.Exit) {
		if e.ID == m.ID {
			stopped <- b.Driver.Stop(b.ctx, m) // no error: it does not run
		}
	})
	b.start(&m, false)
	b.stop(m)
	w.want(m)
	select {
	case err := <-stopped:
		if err != nil {
			b.broken("Stop of an ended machine from exited: %v", err)
		}
	case <-b.ctx.Done():
		b.broken("a Stop from exited has not returned after %v", b.Timeout)
	}
}

func apart(b *bench) {
	w := b.watch()
	machines := make([]balance.Machine, 8)
	errs := make([]error, len(machines))
	at := make(map[string]balance.MachineID)
	var all sync.WaitGroup
	for i := range machines {
		machines[i] = b.NewMachine()
		machines[i].Epoch = 1
		all.Go(func() {
			boot, err := b.Driver.Start(b.ctx, machines[i])
			machines[i].Addr, errs[i] = boot.Addr, err
		})
	}
	all.Wait()
	for i, m := range machines {
		if errs[i] != nil {
			b.broken("Start(%s) beside others: %v", m.ID, errs[i])
		}
		if other, taken := at[m.Addr]; taken {
			b.broken("%s and %s both have the address %s", m.ID, other, m.Addr)
		}
		at[m.Addr] = m.ID
		b.listens(m)
	}
	b.stop(machines[0])
	b.silent(machines[0])
	for i, m := range machines[1:] {
		b.listens(m)
		all.Go(func() { errs[i+1] = b.Driver.Stop(b.ctx, m) })
	}
	all.Wait()
	var starts []start
	for i, m := range machines {
		if errs[i] != nil {
			b.broken("Stop(%s) beside others: %v", m.ID, errs[i])
		}
		starts = append(starts, start{m.Key(), 1})
	}
	for _, m := range machines {
		if w.seen[start{m.Key(), 1}] == 0 {
			w.want(m)
		}
	}
	w.wantOnce(starts...)
}

func sameID(b *bench) {
	w := b.watch()
	one := b.NewMachine()
	two := one
	two.App += "-2"
	b.start(&one, false)
	b.start(&two, false)
	if one.Addr == two.Addr {
		b.broken("%v and %v both have the address %s", one.Key(), two.Key(), one.Addr)
	}
	b.stop(one)
	w.want(one)
	b.silent(one)
	b.listens(two)
	b.stop(two)
	w.want(two)
	w.wantOnce(start{one.Key(), 1}, start{two.Key(), 1})
}
