package autostart

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// away is an edge whose machines are owned by other nodes: m0, m1... in canonical order. Some of
// these nodes answer nothing.
type away struct {
	t     *testing.T
	fleet *balance.Fleet
	b     *balance.Balancer
	a     *Autostart
	boot  time.Duration
	stop  func()

	mu     sync.Mutex
	silent map[balance.NodeID]bool
	late   time.Duration // how long the others take to answer
	asked  []string      // machines by node
}

// newAway makes machines by their owners, in canonical order.
func newAway(t *testing.T, app balance.App, owners ...balance.NodeID) *away {
	t.Helper()
	w := &away{t: t, boot: 300 * time.Millisecond, silent: map[balance.NodeID]bool{}}
	var err error
	if w.fleet, err = balance.NewFleet(balance.FleetConfig{Node: "edge", Region: "nrt"}); err != nil {
		t.Fatal(err)
	}
	app.ID, app.Autostart = "web", true
	us := []balance.Update{balance.PutApp{App: app}}
	for i, id := range canonical("web", len(owners)) {
		us = append(us, balance.PutMachine{Machine: balance.Machine{ID: id, App: "web", Region: "nrt", Owner: owners[i]}, Version: balance.Version{Incarnation: 1, Seq: 1}})
	}
	if err := w.fleet.Apply(us...); err != nil {
		t.Fatal(err)
	}
	if w.b, err = balance.New(w.fleet, balance.Config{}); err != nil {
		t.Fatal(err)
	}
	if w.a, err = New(w.b, w, Config{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { w.b.Run(ctx) })
	running.Go(func() { w.a.Run(ctx) })
	w.stop = func() {
		cancel()
		running.Wait()
	}
	synctest.Wait()
	return w
}

// Start implements Owner.
func (w *away) Start(ctx context.Context, m balance.Machine) (balance.StartAnswer, error) {
	w.mu.Lock()
	w.asked = append(w.asked, string(m.Owner))
	silent, late := w.silent[m.Owner], w.late
	w.mu.Unlock()
	if silent { // neither an answer nor a reset
		<-ctx.Done()
		return 0, ctx.Err()
	}
	time.Sleep(late)
	m.State, m.Epoch = balance.StateStarting, m.Epoch+1
	w.fleet.Apply(balance.PutMachine{Machine: m, Version: balance.Version{Incarnation: 1, Seq: 2 * m.Epoch}})
	time.AfterFunc(w.boot, func() {
		m.State = balance.StateStarted
		w.fleet.Apply(balance.PutMachine{Machine: m, Version: balance.Version{Incarnation: 1, Seq: 2*m.Epoch + 1}})
	})
	return balance.StartAccepted, nil
}

// Recall implements Owner.
func (w *away) Recall(context.Context, balance.Machine) error { return nil }

// get waits for a slot and returns for how long.
func (w *away) get() (time.Duration, error) {
	began := time.Now()
	slot, err := w.a.Acquire(w.t.Context(), &balance.Request{App: "web"})
	if err == nil {
		slot.Release(balance.OutcomeDone)
	}
	return time.Since(began), err
}

// wants fails the test unless these were asked, in this order.
func (w *away) wants(owners ...string) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Equal(w.asked, owners) {
		w.t.Errorf("asked %q, want %q", w.asked, owners)
	}
}

// A node that is known to be gone costs nothing: its machines are neither asked nor waited for.
func TestNodeThatIsGoneIsNotAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newAway(t, balance.App{}, "dead", "live")
		defer w.stop()
		w.silent["dead"] = true
		w.fleet.Apply(balance.NodeGone{Node: "dead", Incarnation: 1})
		if waited, err := w.get(); err != nil || waited != w.boot {
			t.Errorf("waited %v, error %v; want the boot of %v", waited, err, w.boot)
		}
		w.wants("live")
	})
}

// What had been asked of it is asked elsewhere as soon as that is known.
func TestNodeThatGoesWhileItIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newAway(t, balance.App{}, "dead", "live")
		defer w.stop()
		w.silent["dead"] = true
		time.AfterFunc(10*time.Millisecond, func() { w.fleet.Apply(balance.NodeGone{Node: "dead", Incarnation: 1}) })
		if waited, err := w.get(); err != nil || waited > w.boot+20*time.Millisecond {
			t.Errorf("waited %v, error %v; want the news and the boot of %v", waited, err, w.boot)
		}
		w.wants("dead", "live")
	})
}
