package autostart

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/autostart/policy"
	"github.com/ebbkit/ebb/balance"
)

const sec = time.Second

// world is a node that is edge and owner at once, with machines that boot in the time given to
// them.
type world struct {
	t      *testing.T
	fleet  *balance.Fleet
	b      *balance.Balancer
	a      *Autostart
	app    balance.App
	cancel context.CancelFunc
	ended  chan error

	mu     sync.Mutex
	boots  map[balance.MachineID]boot
	starts []balance.MachineID // that were accepted, in order
	asks   int
	recall int
	booted sync.WaitGroup

	events []string
}

// boot is how a machine behaves when it is started.
type boot struct {
	takes time.Duration
	fault string // it fails with that
	never bool   // it goes on starting for ever
	err   error  // its owner cannot be reached
}

// newWorld makes a world with machines "m0", "m1"... of one app; the boots are by position in the
// canonical order.
func newWorld(t *testing.T, app balance.App, c Config, boots ...boot) *world {
	t.Helper()
	w := &world{t: t, app: app, boots: map[balance.MachineID]boot{}, ended: make(chan error, 1)}
	if app.ID == "" {
		w.app.ID = "web"
	}
	var err error
	if w.fleet, err = balance.NewFleet(balance.FleetConfig{Node: "n", Region: "nrt"}); err != nil {
		t.Fatal(err)
	}
	if w.b, err = balance.New(w.fleet, balance.Config{}); err != nil {
		t.Fatal(err)
	}
	if err := w.fleet.Apply(balance.PutApp{App: w.app}); err != nil {
		t.Fatal(err)
	}
	for i, id := range canonical(w.app.ID, len(boots)) {
		w.boots[id] = boots[i]
		if _, err := w.fleet.Host(balance.Machine{ID: id, App: w.app.ID, Region: "nrt"}); err != nil {
			t.Fatal(err)
		}
	}
	trace := c.Trace
	c.Trace.Decided = func(d policy.Decision) {
		trace.decided(d)
		w.note("decided " + d.Reason + d.Refuse)
	}
	c.Trace.HandedOver = func(app balance.AppID, m balance.MachineID, waited time.Duration) {
		trace.handedOver(app, m, waited)
		w.note("handed over " + string(m))
	}
	if w.a, err = New(w.b, w, c); err != nil {
		t.Fatal(err)
	}
	return w
}

func canonical(app balance.AppID, n int) []balance.MachineID {
	ids := make([]balance.MachineID, n)
	for i := range ids {
		ids[i] = balance.MachineID(fmt.Sprintf("m%d", i))
	}
	sortCanonical(app, ids)
	return ids
}

func (w *world) note(s string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, s)
}

// run is launch in a bubble, until the first look at everything is over.
func (w *world) run() {
	w.launch()
	synctest.Wait()
}

// launch starts balancer and autostart; stop ends them.
func (w *world) launch() {
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	go w.b.Run(ctx)
	go func() { w.ended <- w.a.Run(ctx) }()
}

// stop ends all and fails the test when something does not end.
func (w *world) stop() {
	w.t.Helper()
	w.cancel()
	if err := <-w.ended; err != nil {
		w.t.Errorf("Run: %v", err)
	}
	w.booted.Wait()
}

// Start implements Owner.
func (w *world) Start(_ context.Context, m balance.Machine) (balance.StartAnswer, error) {
	w.mu.Lock()
	w.asks++
	b := w.boots[m.ID]
	w.mu.Unlock()
	if b.err != nil {
		return 0, b.err
	}
	g := w.fleet.Gate(m.App, m.ID)
	token, answer := g.Start(m.Epoch)
	if answer != balance.StartAccepted {
		return answer, nil
	}
	w.mu.Lock()
	w.starts = append(w.starts, m.ID)
	w.mu.Unlock()
	if b.never {
		return answer, nil
	}
	w.booted.Go(func() {
		time.Sleep(b.takes)
		if b.fault != "" {
			w.fleet.Edit(m.App, m.ID, func(m *balance.Machine) { m.Fault = b.fault })
			g.Fail(token)
			return
		}
		g.Ready(token)
	})
	return answer, nil
}

// Recall implements Owner.
func (w *world) Recall(_ context.Context, m balance.Machine) error {
	w.mu.Lock()
	w.recall++
	w.mu.Unlock()
	w.fleet.Gate(m.App, m.ID).Uncordon(m.CordonGen)
	return nil
}

func (w *world) started() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.starts)
}

// get acquires a slot, holds it for a while and returns the machine.
func (w *world) get(ctx context.Context, hold time.Duration) (balance.MachineID, error) {
	r := balance.Request{App: w.app.ID}
	slot, err := w.a.Acquire(ctx, &r)
	if err != nil {
		return "", err
	}
	id := slot.Machine().ID
	g := slot.Gate()
	if _, b := g.Enter(0, 0, 0); b != balance.BounceNone {
		w.t.Errorf("slot of %s handed over, and its gate says %v", id, b)
		slot.Release(balance.OutcomeBounced)
		return "", errors.New("bounced")
	}
	time.Sleep(hold)
	g.Leave()
	slot.Release(balance.OutcomeDone)
	return id, nil
}
