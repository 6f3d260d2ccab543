package machine

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/boots"
	"github.com/ebbkit/ebb/balance"
)

const (
	// listMax is how long starts wait for the driver's List: as long as an edge waits for the answer
	// to a start.
	listMax = 10 * time.Second
	// listEvery is how often the driver is asked again while an adopted machine has not passed its
	// check: it may have ended before anybody watched.
	listEvery = 5 * time.Second
)

// adoption takes over the machines that run when a starter begins.
type adoption struct {
	s *Starter

	mu      sync.Mutex
	listing bool                           // List is under way, and exits are kept in ended
	ended   map[balance.MachineKey]Exit    // the last exits since the driver was asked
	unknown map[balance.MachineKey]Running // machines that the node does not host
	booting []*run                         // adopted, and not known to be ready
}

// begin keeps exits from now on: List is about to be called.
func (a *adoption) begin(s *Starter) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.s, a.listing, a.ended = s, true, map[balance.MachineKey]Exit{}
}

// run adopts what the driver lists, and calls ready when starts may begin.
func (a *adoption) run(ctx context.Context, l Lister, ready func()) {
	limit := time.AfterFunc(listMax, ready)
	defer limit.Stop()
	all, ok := a.list(ctx, l)
	if !ok {
		return
	}
	for _, r := range all {
		if a.s.fleet.Gate(r.App, r.ID) != nil {
			a.adopt(r)
			continue
		}
		a.mu.Lock()
		if a.unknown == nil {
			a.unknown = map[balance.MachineKey]Running{}
		}
		a.unknown[r.key()] = r
		a.mu.Unlock()
		a.s.config.Trace.unknown(r)
	}
	a.mu.Lock()
	a.listing, a.ended = false, nil
	a.mu.Unlock()
	ready()
	a.follow(ctx, l)
}

// list calls the driver's List until it succeeds; ok is false when ctx ends first.
func (a *adoption) list(ctx context.Context, l Lister) (all []Running, ok bool) {
	for n := 1; ; n++ {
		all, err := a.s.calls.list(ctx, l)
		if err == nil {
			return all, true
		}
		if ctx.Err() != nil {
			return nil, false
		}
		a.s.config.Trace.driverFailed(fmt.Errorf("machine: the driver's List: %w", err))
		wait(ctx, boots.Backoff(n, 1<<63))
	}
}

// adopt takes over a machine that the node hosts. It reports false when the gate does not agree.
func (a *adoption) adopt(r Running) bool {
	gate := a.s.fleet.Gate(r.App, r.ID)
	if gate == nil {
		return false
	}
	m := a.s.row(balance.Machine{App: r.App, ID: r.ID})
	m.Epoch, m.Addr = r.Epoch, r.Addr
	// an earlier starter of this process has left the gate in this state
	is := gate.Load()
	left := is.Epoch == r.Epoch &&
		(is.State == balance.StateStarted && !r.Suspended || is.State == balance.StateSuspended && r.Suspended)
	var token, slot uint64
	if !left {
		var ok bool
		if token, slot, ok = gate.Adopt(r.Epoch, r.Suspended); !ok {
			return false
		}
	}
	run := a.s.newRun(m, gate, token)
	run.adopted = true
	b := &boot{run: run}
	take := func() bool { return b.adopt(slot) }
	if left || r.Suspended {
		take = b.attendable
	}
	if !a.s.begin(run, take) {
		gate.Revoke(slot)
		run.fail("shutting down")
		return false
	}
	a.mu.Lock()
	if !left && !r.Suspended {
		a.booting = append(a.booting, run)
	}
	e, over := a.ended[m.Key()]
	a.mu.Unlock()
	if over && e.Epoch == r.Epoch {
		run.end(&ended{e})
	}
	return true
}

// exited takes in the end of a machine.
func (a *adoption) exited(key balance.MachineKey, e Exit) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.listing {
		a.ended[key] = e
	}
	if a.unknown[key].Epoch == e.Epoch {
		delete(a.unknown, key)
	}
}

// take returns, and removes, a machine that runs and that the node did not host when it was listed.
func (a *adoption) take(key balance.MachineKey) (r Running, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r, ok = a.unknown[key]
	delete(a.unknown, key)
	return r, ok
}

// follow calls List again while adopted machines boot, and ends the runs of those that it no longer
// lists.
func (a *adoption) follow(ctx context.Context, l Lister) {
	for a.boots() {
		wait(ctx, listEvery)
		all, err := a.s.calls.list(ctx, l)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			continue
		}
		epochs := map[balance.MachineKey]uint64{}
		for _, r := range all {
			epochs[r.key()] = r.Epoch
		}
		a.mu.Lock()
		booting := a.booting
		a.mu.Unlock()
		for _, r := range booting {
			if epochs[r.m.Key()] != r.m.Epoch && r.gate.State() == balance.StateStarting {
				r.end(&ended{Exit{Code: 1, Reason: "its driver does not list it any more"}})
			}
		}
	}
}

// boots reports whether any adopted machine has not yet passed its check.
func (a *adoption) boots() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	var booting []*run
	for _, r := range a.booting {
		if r.ctx.Err() == nil && r.gate.State() == balance.StateStarting {
			booting = append(booting, r)
		}
	}
	a.booting = booting
	return len(booting) > 0
}

func (r Running) key() balance.MachineKey { return balance.MachineKey{App: r.App, ID: r.ID} }
