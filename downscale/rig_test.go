package downscale

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/google/go-cmp/cmp"
)

// machineroom is a driver whose machines live in memory. It checks what the package promises to a
// driver.
type machineroom struct {
	t     *testing.T
	fleet *balance.Fleet

	mu       sync.Mutex
	is       map[balance.MachineID]string // running, frozen or gone
	busy     map[balance.MachineID]bool   // an operation is under way
	atOnce   int
	most     int
	takes    time.Duration
	draining bool  // requests may be in flight when a machine is stopped
	refuse   error // of Stop
	suspend  error // of Suspend
	deaf     chan struct{}
}

func (d *machineroom) enter(m balance.Machine) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.busy[m.ID] {
		d.t.Errorf("two operations on %s at once", m.ID)
	}
	d.busy[m.ID] = true
	d.atOnce++
	d.most = max(d.most, d.atOnce)
	g := d.fleet.Gate(m.App, m.ID)
	if g == nil {
		return // it has left the fleet
	}
	if s := g.State(); s == balance.StateStarted {
		d.t.Errorf("%s is to be stopped and its gate is open", m.ID)
	}
	if n := g.InFlight(); n > 0 && !d.draining {
		d.t.Errorf("%s is to be stopped under %d requests", m.ID, n)
	}
}

// set changes how the driver behaves from now on.
func (d *machineroom) set(change func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change()
}

func (d *machineroom) work(ctx context.Context, m balance.Machine, to string) error {
	d.enter(m)
	defer d.set(func() { d.busy[m.ID] = false; d.atOnce-- })
	var (
		deaf   chan struct{}
		takes  time.Duration
		refuse error
	)
	d.set(func() {
		deaf, takes, refuse = d.deaf, d.takes, d.refuse
		if to == "frozen" {
			refuse = d.suspend
		}
	})
	if deaf != nil {
		<-deaf // whatever ctx says
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	// go.dev/issue/78156: a bubble's timers that have expired when they start break the race
	// detector
	if takes > 0 {
		t := time.NewTimer(takes)
		defer t.Stop()
		select {
		case <-ctx.Done():
		case <-t.C:
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if refuse != nil {
		return refuse
	}
	d.set(func() { d.is[m.ID] = to })
	return nil
}

func (d *machineroom) Stop(ctx context.Context, m balance.Machine) error {
	return d.work(ctx, m, "gone")
}

func (d *machineroom) Suspend(ctx context.Context, m balance.Machine) error {
	return d.work(ctx, m, "frozen")
}

// views are the reports of other nodes. The zero value acknowledges everything at once, has nothing
// parked, and reports no loads.
type views struct {
	silent bool  // nothing is acknowledged
	every  int64 // above 0: acknowledges every so many times that it is asked, and forgets in between
	asked  atomic.Int64
	parked atomic.Int64
	stale  atomic.Bool                  // parked is
	loads  map[balance.MachineID][2]int // in flight, and idle; of far-1 and far-2 they are to be told
}

func (v *views) Parked(balance.AppID) (int, bool) { return int(v.parked.Load()), !v.stale.Load() }

func (v *views) Acked(balance.AppID, balance.MachineID, uint64) bool {
	return !v.silent && (v.every == 0 || v.asked.Add(1)%v.every == 0)
}

func (v *views) Load(_ balance.AppID, id balance.MachineID) (inFlight, idle int, told, fresh bool) {
	n, fresh := v.loads[id]
	return n[0], n[1], id == "far-1" || id == "far-2", fresh
}

// bench is one node with its machines, a downscaler and a log of what it did.
type bench struct {
	t      *testing.T
	fleet  *balance.Fleet
	driver *machineroom
	down   *Downscaler
	ran    bool // down has run
	start  time.Time

	mu  sync.Mutex
	log []string
}

const node = "worker"

func newBench(t *testing.T, c Config, app balance.App, ids ...balance.MachineID) *bench {
	t.Helper()
	return newBenchAt(t, node, c, app, ids...)
}

func newBenchAt(t *testing.T, node balance.NodeID, c Config, app balance.App, ids ...balance.MachineID) *bench {
	t.Helper()
	f, err := balance.NewFleet(balance.FleetConfig{Node: node, Region: "nrt"})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, fleet: f, start: time.Now()}
	b.driver = &machineroom{t: t, fleet: f, is: map[balance.MachineID]string{}, busy: map[balance.MachineID]bool{}, takes: 100 * time.Millisecond}
	app.ID = "web"
	if err := f.Apply(balance.PutApp{App: app}); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if _, err := f.Host(balance.Machine{ID: id, App: "web", Region: "nrt"}); err != nil {
			t.Fatal(err)
		}
		b.boot(id)
	}
	c.Trace = Trace{
		Cordoned:   func(m balance.Machine, why string) { b.say("cordon %s: %s", m.ID, why) },
		Uncordoned: func(m balance.Machine, why string) { b.say("uncordon %s: %s", m.ID, why) },
		Stopping:   func(m balance.Machine, why string) { b.say("stop %s: %s", m.ID, why) },
		Suspending: func(m balance.Machine, why string) { b.say("suspend %s: %s", m.ID, why) },
		Stopped:    func(m balance.Machine, took time.Duration) { b.say("stopped %s in %v", m.ID, took) },
		Suspended:  func(m balance.Machine, took time.Duration) { b.say("suspended %s in %v", m.ID, took) },
		Notified:   func(m balance.Machine, of balance.Class) { b.say("tell %s: %v", m.ID, of) },
		Draining:   func(m balance.Machine, why string) { b.say("draining %s: %s", m.ID, why) },
		Failed:     func(m balance.Machine, err error) { b.say("failed %s: %v", m.ID, err) },
		Stuck:      func(m balance.Machine, why string) { b.say("stuck %s: %s", m.ID, why) },
	}
	if b.down, err = New(f, b.driver, c); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) say(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.log = append(b.log, fmt.Sprintf("%v ", time.Since(b.start).Round(100*time.Millisecond))+fmt.Sprintf(format, args...))
}

// want compares what was traced since the last call.
func (b *bench) want(lines ...string) {
	b.t.Helper()
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	slices.Sort(lines) // simultaneous events come in any order
	slices.Sort(b.log)
	if d := cmp.Diff(lines, b.log); d != "" {
		b.t.Errorf("(-want +got):\n%s", d)
	}
	b.log = nil
}

func (b *bench) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.log = nil
}

func (b *bench) gate(id balance.MachineID) *balance.Gate { return b.fleet.Gate("web", id) }

// boot starts a machine as its starter would.
func (b *bench) boot(id balance.MachineID) {
	g := b.gate(id)
	token, a := g.Start(g.Load().Epoch)
	if a != balance.StartAccepted || !g.Ready(token) {
		b.t.Errorf("boot of %s: %v", id, a)
	}
	b.driver.set(func() { b.driver.is[id] = "running" })
}

// run runs the downscaler until the returned function is called; the next call uses another one.
func (b *bench) run() (end func() error) {
	if b.ran {
		var err error
		if b.down, err = New(b.fleet, b.driver, b.down.config); err != nil {
			b.t.Fatal(err)
		}
	}
	b.ran = true
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan error, 1)
	go func() { done <- b.down.Run(ctx) }()
	return func() error { cancel(); return <-done }
}

// request holds a request on a machine, as from a node that knows its present cordon, until the
// returned function is called.
func (b *bench) request(id balance.MachineID) (leave func()) {
	b.t.Helper()
	g := b.gate(id)
	if _, bounce := g.Enter(0, 0, g.Load().CordonGen); bounce != balance.BounceNone {
		b.t.Fatalf("%s bounces: %v", id, bounce)
	}
	return g.Leave
}

func (b *bench) states() string {
	var out []string
	b.driver.mu.Lock()
	defer b.driver.mu.Unlock()
	s, _ := b.fleet.App("web")
	for m := range s.All() {
		out = append(out, fmt.Sprint(m.ID, " ", m.State, " ", b.driver.is[m.ID]))
	}
	return strings.Join(out, ", ")
}

func (b *bench) wantStates(want string) {
	b.t.Helper()
	synctest.Wait()
	if got := b.states(); got != want {
		b.t.Errorf("states: %s\nwant    %s", got, want)
	}
}

const sec = time.Second

var stopApp = balance.App{Autostop: balance.AutostopStop, Limits: balance.Limits{Soft: 10, Hard: 20}}

// quick is the configuration that a demo would use.
var quick = Config{Window: 10 * sec, KeepAlive: 5 * sec}
