package machine_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/autostart/policy"
	"github.com/ebbkit/ebb/balance"
)

// region is a worker with a starter, and edges that see its rows late and do not communicate with
// each other.
type region struct {
	t       *testing.T
	app     balance.App
	worker  *rig
	edges   []*regionEdge
	cancel  context.CancelFunc
	running sync.WaitGroup
}

type regionEdge struct {
	r     *region
	fleet *balance.Fleet
	b     *balance.Balancer
	a     *autostart.Autostart
	lag   time.Duration // one way

	mu     sync.Mutex
	asked  int
	lose   func(m balance.Machine) bool // the command does not arrive
	events []string
}

// newRegion makes edges with those distances from the worker, and machines with those habits, in
// canonical order.
func newRegion(t *testing.T, app balance.App, lags []time.Duration, hs ...habits) *region {
	t.Helper()
	app.ID, app.Autostart = "web", true
	by := make([]habits, len(hs)) // rig numbers its machines
	for i, id := range canonical("web", len(hs)) {
		var k int
		fmt.Sscanf(string(id), "m%d", &k)
		by[k] = hs[i]
	}
	r := &region{
		t: t, app: app, worker: newRig(t, machine.Config{Check: machine.Check{Every: -1}, BootCap: time.Hour}, by...),
	}
	r.worker.fleet.Apply(balance.PutApp{App: app})
	var ctx context.Context
	ctx, r.cancel = context.WithCancel(context.Background())
	for i, lag := range lags {
		e := &regionEdge{r: r, lag: lag}
		e.fleet, _ = balance.NewFleet(balance.FleetConfig{Node: balance.NodeID(fmt.Sprintf("edge-%d", i)), Region: "nrt"})
		e.fleet.Apply(balance.PutApp{App: app})
		e.b, _ = balance.New(e.fleet, balance.Config{})
		var err error
		if e.a, err = autostart.New(e.b, e, autostart.Config{Trace: autostart.Trace{Decided: func(d policy.Decision) {
			e.note("decided %v start %v recall %v refuse %q", d.Reason, len(d.Start), len(d.Recall), d.Refuse)
		}, Recalled: func(m balance.Machine, err error) { e.note("recalled %v", err) }, Parked: func(balance.AppID, int) { e.note("parked") }, Rejected: func(_ balance.AppID, err error) { e.note("rejected %v", err) }}}); err != nil {
			t.Fatal(err)
		}
		rows := r.worker.fleet.Watch()
		r.running.Go(func() {
			defer rows.Close()
			for {
				select {
				case <-ctx.Done():
					return
				case <-rows.C():
					us := rows.Take()
					time.AfterFunc(lag, func() { e.fleet.Apply(us...) })
				}
			}
		})
		r.running.Go(func() { e.b.Run(ctx) })
		r.running.Go(func() { e.a.Run(ctx) })
		r.edges = append(r.edges, e)
	}
	time.Sleep(sec) // rows have arrived
	return r
}

func (r *region) stop() {
	r.cancel()
	r.running.Wait()
	time.Sleep(5 * sec) // what is under way arrives
	r.worker.stop()
}

// Start implements Owner.
func (e *regionEdge) Start(ctx context.Context, m balance.Machine) (balance.StartAnswer, error) {
	time.Sleep(e.lag)
	e.mu.Lock()
	e.asked++
	lost := e.lose != nil && e.lose(m)
	e.mu.Unlock()
	if lost {
		return 0, errors.New("lost on the way")
	}
	a, err := e.r.worker.s.Start(ctx, m)
	time.Sleep(e.lag)
	e.note("start %s@%d: %v %v", m.ID, m.Epoch, a, err)
	return a, err
}

func (e *regionEdge) note(format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.events = append(
		e.events, fmt.Sprintf("%d ", time.Now().UnixMilli()%100000)+fmt.Sprintf(format, args...),
	)
}

// Recall implements Owner.
func (e *regionEdge) Recall(ctx context.Context, m balance.Machine) error {
	time.Sleep(2 * e.lag)
	return e.r.worker.s.Recall(ctx, m)
}

// send sends requests, each of which takes a second; their errors come later.
func (e *regionEdge) send(n int) <-chan error {
	errs := make(chan error, n)
	for range n {
		go func() {
			r := &balance.Request{App: "web"}
			for {
				slot, err := e.a.Acquire(e.r.t.Context(), r)
				if err != nil {
					errs <- err
					return
				}
				time.Sleep(e.lag)
				id := slot.Machine().ID
				g := e.r.worker.fleet.Gate("web", id)
				l, answer := g.Enter(0, 0, slot.Machine().CordonGen)
				if answer != balance.BounceNone {
					time.Sleep(e.lag)
					slot.Observe(l)
					e.note("bounced %v", answer)
					slot.Release(balance.OutcomeBounced)
					r.Tried = append(r.Tried, id)
					continue
				}
				time.Sleep(sec)
				g.Leave()
				time.Sleep(e.lag)
				slot.Release(balance.OutcomeDone)
				errs <- nil
				return
			}
		}()
	}
	return errs
}

// all waits for n answers and fails the test for each that is none.
func all(t *testing.T, errs <-chan error, n int) {
	t.Helper()
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// Invariant A8 with real nodes: they do not communicate, see rows late, and start together what the
// one with the largest demand needs.
func TestThreeNodesAgreeWithoutTalking(t *testing.T) {
	lags := []time.Duration{5 * time.Millisecond, 80 * time.Millisecond, 200 * time.Millisecond}
	slow := habits{boot: 45 * sec}
	for _, tc := range []struct {
		soft   int
		demand [3]int
		starts int
	}{
		{0, [3]int{20, 20, 20}, 1},
		{10, [3]int{1, 1, 1}, 1},
		{10, [3]int{8, 25, 3}, 3},
		{2, [3]int{5, 0, 6}, 3},
	} {
		t.Run(fmt.Sprint(tc.soft, tc.demand), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRegion(
					t, balance.App{Limits: balance.Limits{Soft: tc.soft}, BootHint: 45 * sec}, lags, slow, slow,
					slow, slow, slow, slow,
				)
				defer r.stop()
				var answers [3]<-chan error
				for i, e := range r.edges {
					answers[i] = e.send(tc.demand[i])
					time.Sleep(37 * time.Millisecond)
				}
				time.Sleep(40 * sec)
				if starts, _, _ := r.worker.d.counts(); starts != tc.starts {
					t.Errorf("%d starts before the first is ready, want %d", starts, tc.starts)
				}
				for i, n := range tc.demand {
					all(t, answers[i], n)
				}
			})
		})
	}
}

// Faults that similar software is known for.
func TestRegressions(t *testing.T) {
	near := []time.Duration{time.Millisecond}
	for _, tc := range []struct {
		name string
		run  func(t *testing.T)
	}{
		{"knative/serving#13284: boots of 30 s are no reason for more machines", func(t *testing.T) {
			b := habits{boot: 30 * sec}
			r := newRegion(t, balance.App{Limits: balance.Limits{Soft: 10}}, near, b, b, b, b, b, b)
			defer r.stop()
			e := r.edges[0]
			var errs []<-chan error
			for range 20 { // the load grows to twenty while nothing is ready
				errs = append(errs, e.send(1))
				time.Sleep(sec)
			}
			if starts, _, _ := r.worker.d.counts(); starts != 2 {
				t.Errorf("%d starts for 20 requests at 10 each, want 2", starts)
			}
			for _, c := range errs {
				all(t, c, 1)
			}
			if starts, _, _ := r.worker.d.counts(); starts != 2 {
				t.Errorf("%d starts in the end, want 2", starts)
			}
		}},
		{"knative/serving#14202: a round trip of a second does not keep an app asleep", func(t *testing.T) {
			r := newRegion(t, balance.App{}, []time.Duration{500 * time.Millisecond}, habits{boot: 2 * sec}, habits{boot: 2 * sec})
			defer r.stop()
			began := time.Now()
			all(t, r.edges[0].send(3), 3)
			if starts, _, _ := r.worker.d.counts(); starts != 1 {
				t.Errorf("%d starts, want 1", starts)
			}
			// Half a round trip for the command and one for the rows, one and a second for the request.
			if took := time.Since(began); took > 2*sec+3*sec+sec {
				t.Errorf("answered after %v", took)
			}
		}},
		{"kedacore/http-add-on#1492: from zero there is no 503, even when the first command is lost", func(t *testing.T) {
			r := newRegion(t, balance.App{}, near, habits{boot: sec}, habits{boot: sec})
			defer r.stop()
			e := r.edges[0]
			e.lose = func(balance.Machine) bool { return e.asked == 1 }
			all(t, e.send(5), 5)
			if starts, _, _ := r.worker.d.counts(); starts != 1 || e.asked != 2 {
				t.Errorf("%d starts and %d asked, want 1 and 2", starts, e.asked)
			}
		}},
		{"kedacore/http-add-on#1692: the first request after a long idle time is served", func(t *testing.T) {
			r := newRegion(t, balance.App{}, near, habits{boot: sec})
			defer r.stop()
			e := r.edges[0]
			for i := range 5 {
				all(t, e.send(1), 1)
				m := r.worker.row("m0")
				g := r.worker.fleet.Gate("web", m.ID)
				gen, _ := g.Cordon()
				time.Sleep(sec)
				token, ok := g.Close(gen, false)
				if !ok {
					t.Fatal("it does not close")
				}
				r.worker.d.Stop(t.Context(), m)
				g.Closed(token, false)
				time.Sleep([]time.Duration{sec, time.Minute, 2 * time.Hour, 10 * time.Minute, sec}[i])
			}
			began := time.Now()
			all(t, e.send(1), 1)
			if took := time.Since(began); took > 3*sec {
				t.Errorf("it took %v", took)
			}
		}},
		{"sablier's expiry race: a request that comes while its app is put to sleep is served", func(t *testing.T) {
			for wait := range 12 { // the request comes at each point of the stop
				r := newRegion(t, balance.App{}, []time.Duration{10 * time.Millisecond}, habits{boot: sec})
				e := r.edges[0]
				all(t, e.send(1), 1)
				m := r.worker.row("m0")
				g := r.worker.fleet.Gate("web", "m0")
				errs := make(chan error, 1)
				go func() {
					time.Sleep(time.Duration(wait) * 10 * time.Millisecond)
					errs <- <-e.send(1)
				}()
				gen, _ := g.Cordon()
				time.Sleep(55 * time.Millisecond)
				if token, ok := g.Close(gen, false); ok {
					r.worker.d.Stop(t.Context(), m)
					time.Sleep(30 * time.Millisecond)
					g.Closed(token, false)
				} else {
					g.Uncordon(gen)
				}
				all(t, errs, 1)
				if starts, _, _ := r.worker.d.counts(); starts > 2 {
					t.Errorf("wait %d: %d starts, want 2 at most", wait, starts)
				}
				if t.Failed() {
					t.Fatalf("wait %d: %q, row %+v, seen %v", wait, r.worker.events, r.worker.row("m0"), e.events)
				}
				r.stop()
			}
		}},
		{"openfaas/faas#1290: nothing is sent to a machine before it is ready, although its address is known", func(t *testing.T) {
			r := newRegion(t, balance.App{}, near, habits{boot: 20 * sec})
			defer r.stop()
			e := r.edges[0]
			errs := e.send(10)
			for range 180 {
				time.Sleep(100 * time.Millisecond)
				if n := e.b.InFlight("web"); n != 0 {
					t.Fatalf("%d are on their way while the machine boots", n)
				}
			}
			all(t, errs, 10)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) { synctest.Test(t, tc.run) })
	}
}
