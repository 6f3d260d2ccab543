package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale"
)

// TestDownscaleLosesNothing sends requests through a storm. Machines fall asleep, are ordered to
// stop and are woken, while rows and acknowledgements are late and lost, edges fall silent and
// restart, the downscaler is cut off and restarts, and the driver fails, hangs, does not know and
// answers late. No request is lost: each is served by a machine that runs from the request's
// beginning to its end. The real downscaler, balancer and gates run, in the virtual time of a
// bubble.
func TestDownscaleLosesNothing(t *testing.T) {
	requests := int64(200_000)
	switch {
	case *full:
		requests = 1_000_000
	case raceEnabled || testing.Short():
		requests = 10_000
	}
	synctest.Test(t, func(t *testing.T) { storm(t, requests, *seed) })
}

const (
	stormMachines = 8
	stormEdges    = 4
	stormClients  = 120
)

// stormy is the storm's world: one worker with its machines, and edges that see it late.
type stormy struct {
	t      *testing.T
	worker *balance.Fleet
	config downscale.Config
	down   atomic.Pointer[downscale.Downscaler] // of the present run
	edges  [stormEdges]stormEdge
	begun  time.Time

	mu   sync.Mutex // of what follows
	rand *rand.Rand
	is   map[balance.MachineID]string // running, frozen, or gone
	long map[*stormConn]bool

	asked, served, lost, unserved, cut, told, bounced        atomic.Int64
	stops, suspends, starts, aborts, orders, runs, surprises atomic.Int64
}

type stormEdge struct {
	now   atomic.Pointer[stormView]
	acked sync.Map // what the worker knows that the edge has acknowledged: cordon generation by machine
}

// stormView is one run of an edge.
type stormView struct {
	fleet *balance.Fleet
	lb    *balance.Balancer
}

type stormConn struct {
	id    balance.MachineID
	class balance.Class
	told  chan struct{}
}

// chance is true with that probability.
func (w *stormy) chance(p float64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rand.Float64() < p
}

// between draws a duration.
func (w *stormy) between(least, most time.Duration) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return least + time.Duration(w.rand.Int64N(int64(most-least)))
}

func storm(t *testing.T, requests int64, seed uint64) {
	w := &stormy{
		t: t, rand: rand.New(rand.NewPCG(seed, 11)), is: map[balance.MachineID]string{},
		long: map[*stormConn]bool{}, begun: time.Now(),
	}
	ctx, cancel := context.WithCancel(t.Context())
	var err error
	if w.worker, err = balance.NewFleet(balance.FleetConfig{Node: "worker", Region: "nrt"}); err != nil {
		t.Fatal(err)
	}
	if err := w.worker.Apply(balance.PutApp{App: w.app()}); err != nil {
		t.Fatal(err)
	}
	for i := range stormMachines {
		if _, err := w.worker.Host(balance.Machine{ID: machineID(i), App: app, Region: "nrt"}); err != nil {
			t.Fatal(err)
		}
	}
	note := func(n *atomic.Int64) func(balance.Machine, time.Duration) {
		return func(balance.Machine, time.Duration) { n.Add(1) }
	}
	w.config = downscale.Config{
		Window: 10 * time.Second, KeepAlive: 2 * time.Second, StopTimeout: 5 * time.Second, Quiet: 200 * time.Millisecond,
		Views: w, Connections: w, Notify: balance.ClassWebSocket,
		Trace: downscale.Trace{
			Stopped: note(&w.stops), Suspended: note(&w.suspends),
			Uncordoned: func(balance.Machine, string) { w.aborts.Add(1) },
		},
	}
	w.reborn(t)
	w.worker.Keep(
		balance.Keeper{
			Wanted: func(_ balance.AppID, id balance.MachineID) { w.start(id, w.gate(id).Load().Epoch) },
		},
	)
	var background sync.WaitGroup
	background.Go(func() { w.runDownscaler(t, ctx) })
	background.Go(func() { w.maintain(ctx) })
	for i := range w.edges {
		w.rebirth(i)
		background.Go(func() { w.watch(ctx, i) })
	}
	var clients sync.WaitGroup
	for i := range stormClients {
		clients.Go(func() {
			for w.asked.Add(1) <= requests {
				w.think(i)
				w.request(&w.edges[i%stormEdges])
			}
		})
	}
	clients.Wait()
	w.asked.Store(requests)
	time.Sleep(10 * time.Minute) // faults go on, and everything comes to rest even so
	cancel()
	background.Wait()
	for i := range stormMachines {
		if l := w.gate(machineID(i)).Load(); l.InFlight != 0 || l.Cordon != balance.CordonNone {
			t.Errorf("%s is left %+v", machineID(i), l)
		}
	}
	t.Logf(
		"%d requests in %v on %d edges: %d served, %d lost, %d unserved; %d bounces, %d stops, %d suspensions, %d starts, %d aborts; %d connections told, %d cut off by order; %d orders, %d runs",
		requests, time.Since(w.begun).Round(time.Second), stormEdges, w.served.Load(), w.lost.Load(),
		w.unserved.Load(), w.bounced.Load(), w.stops.Load(), w.suspends.Load(), w.starts.Load(),
		w.aborts.Load(), w.told.Load(), w.cut.Load(), w.orders.Load(), w.runs.Load(),
	)
	if w.lost.Load() > 0 || w.unserved.Load() > 0 || w.surprises.Load() > 0 {
		t.Errorf(
			"%d requests lost, %d not served in time, %d surprises", w.lost.Load(), w.unserved.Load(),
			w.surprises.Load(),
		)
	}
	if n := w.stops.Load() + w.suspends.Load(); n < requests/2000 {
		t.Errorf("%d stops and suspensions are no test", n)
	}
}

func (w *stormy) app() balance.App {
	return balance.App{
		ID: app, Autostop: balance.AutostopSuspend, Limits: balance.Limits{Soft: 8, Hard: 16},
	}
}

func (w *stormy) gate(id balance.MachineID) *balance.Gate { return w.worker.Gate(app, id) }

// think waits before a client's next request: six seconds of storm alternate with six of near
// silence.
func (w *stormy) think(client int) {
	for {
		time.Sleep(w.between(time.Millisecond, 400*time.Millisecond))
		if calm := time.Since(w.begun)%(12*time.Second) >= 6*time.Second; !calm ||
			client < 2 && w.chance(0.02) {
			return
		}
	}
}

// request brings one request to a machine and back.
func (w *stormy) request(e *stormEdge) {
	began := time.Now()
	var tried []balance.MachineID
	for {
		if time.Since(began) > 3*time.Minute {
			w.unserved.Add(1)
			return
		}
		v := e.now.Load()
		r, err := v.lb.Pick(balance.Request{App: app, Tried: tried, Rand: w.uint64()})
		if err != nil {
			tried = nil
			w.wake(v)
			time.Sleep(w.between(10*time.Millisecond, 100*time.Millisecond))
			continue
		}
		m, release := *r.Machine(), r.Release
		time.Sleep(w.travel())
		g := w.gate(m.ID)
		load, bounce := g.Enter(0, m.Epoch, m.CordonGen)
		if bounce != balance.BounceNone {
			w.bounced.Add(1)
			time.Sleep(w.travel())
			r.Observe(load)
			release(balance.OutcomeBounced)
			tried = append(tried, m.ID)
			continue
		}
		w.serve(m.ID, load.Epoch, g)
		time.Sleep(w.travel())
		r.Observe(load)
		release(balance.OutcomeDone)
		w.served.Add(1)
		return
	}
}

func (w *stormy) uint64() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rand.Uint64()
}

// travel is half a round trip; one in two hundred takes seconds.
func (w *stormy) travel() time.Duration {
	if w.chance(0.005) {
		return w.between(time.Second, 4*time.Second)
	}
	return w.between(time.Millisecond, 40*time.Millisecond)
}

// serve is a request on a machine, or a long connection.
func (w *stormy) serve(id balance.MachineID, epoch uint64, g *balance.Gate) {
	defer g.Leave()
	w.check(id, epoch, g, false)
	if !w.chance(0.004) {
		takes := w.between(5*time.Millisecond, 250*time.Millisecond)
		if w.chance(0.01) {
			takes = w.between(time.Second, 6*time.Second)
		}
		time.Sleep(takes)
		w.check(id, epoch, g, false)
		return
	}
	c := &stormConn{id: id, class: balance.ClassWebSocket, told: make(chan struct{})}
	if w.chance(0.3) {
		c.class = balance.ClassTCP
	}
	w.set(func() { w.long[c] = true })
	defer w.set(func() { delete(w.long, c) })
	t := time.NewTimer(w.between(time.Second, 20*time.Second))
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.told:
		time.Sleep(w.between(0, 4*time.Second))
	}
	w.check(id, epoch, g, true)
}

func (w *stormy) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// check counts a request as lost if its machine does not run, or was restarted.
func (w *stormy) check(id balance.MachineID, epoch uint64, g *balance.Gate, long bool) {
	w.mu.Lock()
	is := w.is[id]
	w.mu.Unlock()
	if is == "running" && g.Load().Epoch == epoch {
		return
	}
	if long {
		w.cut.Add(1)
		return
	}
	if w.lost.Add(1) < 10 {
		w.t.Errorf(
			"at %v a request is on %s, which is %s; its gate %+v", time.Since(w.begun), id, is, g.Load(),
		)
	}
}

// wake starts the first machine of the order that does not run, as this edge sees it.
func (w *stormy) wake(v *stormView) {
	s, ok := v.fleet.App(app)
	if !ok {
		return
	}
	for m := range s.All() {
		if m.State.Startable() || m.State == balance.StateStopping || m.State == balance.StateSuspending {
			w.start(m.ID, m.Epoch)
			return
		}
	}
}

func (w *stormy) start(id balance.MachineID, from uint64) {
	g := w.gate(id)
	token, a := g.Start(from)
	if a == balance.StartRefused { // the answer says which run it was
		token, a = g.Start(g.Load().Epoch)
	}
	if a != balance.StartAccepted {
		return
	}
	w.starts.Add(1)
	go func() {
		time.Sleep(w.between(200*time.Millisecond, 2*time.Second))
		if w.chance(0.05) {
			w.set(func() { w.is[id] = "gone" })
			g.Fail(token)
			return
		}
		w.set(func() { w.is[id] = "running" })
		g.Ready(token)
	}()
}

// Stop implements downscale.Driver.
func (w *stormy) Stop(ctx context.Context, m balance.Machine) error { return w.end(ctx, m, "gone") }

// Suspend implements downscale.Driver.
func (w *stormy) Suspend(ctx context.Context, m balance.Machine) error {
	if w.chance(0.1) {
		return fmt.Errorf("storm: %w", errors.ErrUnsupported)
	}
	return w.end(ctx, m, "frozen")
}

// end ends a machine, most of the time.
func (w *stormy) end(ctx context.Context, m balance.Machine, to string) error {
	if s := w.gate(m.ID).State(); s == balance.StateStarted || s == balance.StateStarting {
		w.surprises.Add(1)
		w.t.Errorf("the driver is told to end %s, whose gate is %v", m.ID, s)
	}
	time.Sleep(w.between(10*time.Millisecond, time.Second))
	w.mu.Lock()
	is := w.is[m.ID]
	w.mu.Unlock()
	switch {
	case is == "gone": // after a stop in doubt
		return nil
	case w.chance(0.05):
		return errors.New("storm: it runs on")
	case w.chance(0.05): // hangs, and stops the machine or not
		<-ctx.Done()
		if w.chance(0.5) {
			w.set(func() { w.is[m.ID] = to })
		}
		return ctx.Err()
	case w.chance(0.02): // ignores its context, and is late
		time.Sleep(30 * time.Second)
	}
	w.set(func() { w.is[m.ID] = to })
	return nil
}

// Parked implements downscale.Views: waiting requests start machines themselves.
func (w *stormy) Parked(balance.AppID) (int, bool) { return 0, true }

// Load implements downscale.Views: there is one owner.
func (w *stormy) Load(balance.AppID, balance.MachineID) (int, int, bool, bool) {
	return 0, 0, false, false
}

// Acked implements downscale.Views.
func (w *stormy) Acked(_ balance.AppID, id balance.MachineID, gen uint64) bool {
	for i := range w.edges {
		if known, ok := w.edges[i].acked.Load(id); !ok || known.(uint64) < gen {
			return false
		}
	}
	return true
}

// Long implements downscale.Connections.
func (w *stormy) Long(m balance.Machine, of balance.Class) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.long {
		if c.id == m.ID && c.class&of != 0 {
			n++
		}
	}
	return n
}

// Idle and NotifyIdle implement downscale.Connections: none is idle.
func (*stormy) Idle(balance.Machine, balance.Class, time.Duration) int                  { return 0 }
func (*stormy) NotifyIdle(balance.Machine, balance.Class, time.Duration, time.Duration) {}

// Notify implements downscale.Connections.
func (w *stormy) Notify(m balance.Machine, of balance.Class, _ time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.long {
		if c.id != m.ID || c.class&of == 0 {
			continue
		}
		select {
		case <-c.told:
		default:
			close(c.told)
			w.told.Add(1)
		}
	}
}

// reborn makes the next downscaler: each runs once.
func (w *stormy) reborn(t testing.TB) {
	d, err := downscale.New(w.worker, w, w.config)
	if err != nil {
		t.Error(err)
	}
	w.down.Store(d)
}

// runDownscaler runs it, and cuts it off at random times.
func (w *stormy) runDownscaler(t testing.TB, ctx context.Context) {
	for ctx.Err() == nil {
		w.runs.Add(1)
		life, cancel := context.WithTimeout(ctx, w.between(5*time.Second, 2*time.Minute))
		_ = w.down.Load().Run(life) // it may leave machines in doubt, for the next
		cancel()
		w.reborn(t)
	}
}

// maintain orders machines to stop, some firmly, and withdraws some.
func (w *stormy) maintain(ctx context.Context) {
	for ctx.Err() == nil {
		time.Sleep(w.between(0, 3*time.Second))
		o := downscale.Order{Reason: "maintenance", Suspend: w.chance(0.5)}
		if w.chance(0.5) {
			o.Drain = 30 * time.Second
		}
		patience := time.Minute
		if w.chance(0.2) {
			patience = w.between(0, 5*time.Second)
		}
		m := balance.Machine{App: app, ID: machineID(int(w.between(0, stormMachines)))}
		w.orders.Add(1)
		go func() {
			ctx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			_ = w.down.Load().Stop(ctx, m, o)
		}()
	}
}

// rebirth restarts an edge: its knowledge is gone.
func (w *stormy) rebirth(i int) {
	f, err := balance.NewFleet(balance.FleetConfig{Node: balance.NodeID(fmt.Sprint("edge", i)), Region: "nrt"})
	if err == nil {
		err = f.Apply(balance.PutApp{App: w.app()})
	}
	lb, err2 := balance.New(f, balance.Config{})
	if err != nil || err2 != nil {
		w.t.Fatal(err, err2)
	}
	w.edges[i].acked.Clear()
	w.edges[i].now.Store(&stormView{fleet: f, lb: lb})
}

// watch brings the worker's rows to an edge, late, with losses, and the acknowledgements back.
func (w *stormy) watch(ctx context.Context, i int) {
	e := &w.edges[i]
	for seq := uint64(1); ctx.Err() == nil; seq++ {
		time.Sleep(w.between(20*time.Millisecond, 400*time.Millisecond))
		switch {
		case w.chance(0.1):
			continue // lost
		case w.chance(0.002):
			time.Sleep(w.between(5*time.Second, 40*time.Second)) // silent
		case w.chance(0.002):
			w.rebirth(i)
		}
		v := e.now.Load()
		v.lb.Tick(time.Now())
		s, _ := w.worker.App(app)
		var rows []balance.Update
		gens := map[balance.MachineID]uint64{}
		for m := range s.All() {
			row := *m
			row.Owner = "worker"
			rows = append(
				rows, balance.PutMachine{Machine: row, Version: balance.Version{Incarnation: 1, Seq: seq}},
			)
			gens[m.ID] = m.CordonGen
		}
		time.Sleep(w.travel())
		if err := v.fleet.Apply(rows...); err != nil {
			w.t.Error(err)
		}
		if w.chance(0.1) {
			continue // the acknowledgement is lost
		}
		time.Sleep(w.travel())
		for id, gen := range gens {
			e.acked.Store(id, gen)
		}
	}
}
