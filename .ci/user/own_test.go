package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/autostart/machinetest"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/balancetest"
	"github.com/ebbkit/ebb/rtt"
	"github.com/ebbkit/ebb/rtt/rtttest"
)

// ownStrategy takes the machine with the least load of the nearest region that has a usable one, tier by tier.
func ownStrategy(v *balance.View, r balance.Request) (slot balance.Slot, ok bool) {
	var best, c balance.Candidate
	for t := balance.TierReady; t <= balance.TierFailing; t++ {
		for i := range v.Regions() {
			for j := range v.Len(i, t) {
				s := v.Slot(i, t, j)
				if v.Usable(s, &r, &c) &&
					(!ok || c.Load < best.Load || c.Load == best.Load && c.Salt < best.Salt) {
					slot, best, ok = s, c, true
				}
			}
			if ok {
				return slot, true
			}
		}
	}
	return slot, false
}

func TestOwnStrategy(t *testing.T) {
	balancetest.TestStrategy(t, func() balance.Strategy { return balance.StrategyFunc(ownStrategy) })
}

// table is a distance that somebody wrote down.
type table struct {
	own   string
	trips map[string]time.Duration
}

func (t *table) RTT(region string) (time.Duration, bool) {
	if region == t.own {
		return 0, true
	}
	d, ok := t.trips[region]
	return d, ok
}

func TestOwnDistance(t *testing.T) {
	rtttest.TestDistance(
		t,
		func(_ *testing.T, own string, truth map[string]time.Duration) rtttest.Source {
			return rtttest.Source{Distance: &table{own, truth}}
		},
	)
}

func TestMesh(t *testing.T) {
	mesh, err := rtt.New(rtt.Config{ID: "own", Region: "here", Key: make([]byte, 32), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer mesh.Close()
	if d, ok := mesh.RTT("here"); d != 0 || !ok {
		t.Errorf("the own region is %v, %v", d, ok)
	}
}

// listeners is a driver whose machines are listening sockets of this process.
type listeners struct {
	mu      sync.Mutex
	runs    map[balance.MachineKey]net.Listener
	epoch   map[balance.MachineKey]uint64
	watches int
	unseen  []machine.Exit
	watch   map[int]func(machine.Exit)
}

func (d *listeners) Start(_ context.Context, m balance.Machine) (machine.Booting, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.runs[m.Key()] != nil {
		return machine.Booting{}, fmt.Errorf("%s runs already", m.ID)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return machine.Booting{}, err
	}
	d.runs[m.Key()], d.epoch[m.Key()] = l, m.Epoch
	return machine.Booting{Addr: l.Addr().String()}, nil
}

func (d *listeners) Stop(_ context.Context, m balance.Machine) error {
	d.mu.Lock()
	l := d.runs[m.Key()]
	if l == nil {
		d.mu.Unlock()
		return nil
	}
	l.Close()
	delete(d.runs, m.Key())
	e := machine.Exit{App: m.App, ID: m.ID, Epoch: d.epoch[m.Key()], Reason: "stopped"}
	watch := maps.Clone(d.watch)
	if len(watch) == 0 {
		d.unseen = append(d.unseen, e)
	}
	d.mu.Unlock()
	for _, exited := range watch {
		exited(e)
	}
	return nil
}

func (d *listeners) Suspend(context.Context, balance.Machine) error {
	return fmt.Errorf("listeners cannot be suspended: %w", errors.ErrUnsupported)
}

func (d *listeners) Watch(ctx context.Context, exited func(machine.Exit)) error {
	d.mu.Lock()
	d.watches++
	n := d.watches
	d.watch[n] = exited
	unseen := d.unseen
	d.unseen = nil
	d.mu.Unlock()
	for _, e := range unseen {
		exited(e)
	}
	<-ctx.Done()
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.watch, n)
	return nil
}

func TestOwnDriver(t *testing.T) {
	machinetest.TestDriver(t, func(t *testing.T) machinetest.Subject {
		n := 0
		d := &listeners{
			runs: map[balance.MachineKey]net.Listener{}, epoch: map[balance.MachineKey]uint64{},
			watch: map[int]func(machine.Exit){},
		}
		return machinetest.Subject{Driver: d, NewMachine: func() balance.Machine {
			n++
			return balance.Machine{ID: balance.MachineID(fmt.Sprint("own-", n)), App: "own", Region: "here"}
		}}
	})
}
