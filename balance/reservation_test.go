package balance

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance/internal/granting"
	"pgregory.net/rapid"
)

// pickers are the ways to pick for which a change of the fleet could cause work.
var pickers = map[string]struct {
	s Strategy
	r Request
}{
	"plain":     {nil, Request{App: "web", Rand: 1}},
	"key":       {nil, Request{App: "web", Rand: 1, Key: "user-7"}},
	"tried":     {nil, Request{App: "web", Rand: 1, Tried: []MachineID{"m000001", "m000002"}}},
	"want":      {nil, Request{App: "web", Rand: 1, Prefer: &Target{Regions: []string{"r00"}}}},
	"leastload": {LeastLoad{}, Request{App: "web", Rand: 1}},
	"pack":      {Pack{}, Request{App: "web", Rand: 1}},
}

// mallocs returns how many objects do allocates.
func mallocs(do func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return after.Mallocs - before.Mallocs
}

// The memory that a pick needs is kept when the fleet changes: the first pick after a change
// allocates as little as any.
func TestFirstPickAfterAChangeDoesNotAllocate(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for name, p := range pickers {
		f, b := benchBalancer(t, p.s, 1000, 1)
		m := Machine{ID: "m000003", App: "web", Region: "r00", Owner: "w", State: StateStarted}
		v := Version{1, 1}
		const rounds = 50
		sum := uint64(0)
		for i := range rounds {
			v.Seq++
			switch i % 3 {
			case 0:
				m.Addr = fmt.Sprint(i)
			case 1:
				m.State = StateStopped
			case 2:
				m.State = StateStarted
			}
			if err := f.Apply(PutMachine{m, v}); err != nil {
				t.Fatal(err)
			}
			sum += mallocs(func() {
				r, err := b.Pick(p.r)
				if err != nil {
					t.Fatal(err)
				}
				r.Release(OutcomeDone)
			})
		}
		if sum >= rounds/2 { // the runtime may allocate occasionally
			t.Errorf("%s: %d allocations in %d first picks", name, sum, rounds)
		}
	}
}

// A pick takes no lock, whatever is under way: here every lock is held. If the pick took one, this
// test would hang instead of failing.
func TestPickTakesNoLock(t *testing.T) {
	for name, p := range pickers {
		f, b := benchBalancer(t, p.s, 100, 2)
		f.mu.Lock()
		f.ageing.Lock()
		b.mu.Lock()
		r, err := b.Pick(p.r)
		b.mu.Unlock()
		f.ageing.Unlock()
		f.mu.Unlock()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		r.Release(OutcomeDone)
	}
}

// newGranted returns a node with one machine whose owner grants its slots.
func newGranted(t *testing.T) (*Fleet, *Balancer, *cell) {
	t.Helper()
	f, err := NewFleet(FleetConfig{Node: "n", Region: "nrt"})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Apply(PutMachine{Machine{ID: "m1", App: "web", Region: "nrt", Owner: "o", State: StateStarted, Limits: Limits{Hard: 2}}, Version{1, 1}}); err != nil {
		t.Fatal(err)
	}
	b, err := New(f, Config{})
	if err != nil {
		t.Fatal(err)
	}
	return f, b, (*f.apps.Load())["web"].cells.find("m1")
}

func TestPickOfAGrantedSlotTakesNoLockAndDoesNotAllocate(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	_, b, c := newGranted(t)
	const rounds = 50
	sum := uint64(0)
	for i := range rounds {
		b.AcceptGrant(Grant{App: "web", Machine: "m1", Token: uint64(i + 1), For: time.Minute})
		held := c.remember().granted()
		held.mu.Lock()
		var r Reservation
		sum += mallocs(func() { r, _ = b.Pick(Request{App: "web", Rand: 1}) })
		held.mu.Unlock()
		if token, ok := r.GrantToken(); !ok || token != uint64(i+1) {
			t.Fatalf("round %d: token %d, %v", i, token, ok)
		}
		r.Release(OutcomeDone)
	}
	if sum >= rounds/2 {
		t.Errorf("%d allocations in %d picks", sum, rounds)
	}
}

// A granted slot is used once, even if it is picked, given back and granted twice at the same time.
// At the end the number of slots that picks use is the number available.
func TestGrantedSlotsAreUsedOnce(t *testing.T) {
	f, b, c := newGranted(t)
	const slots = 2000
	var taken [slots + 1]atomic.Int32
	var picks sync.WaitGroup
	var over atomic.Bool
	for n := range 4 {
		picks.Go(func() {
			for i := uint64(n); !over.Load() || c.remember().granted().len() > 0; i++ {
				r, err := b.Pick(Request{App: "web", Rand: i + 1})
				if err != nil {
					runtime.Gosched()
					continue
				}
				if i%3 != 0 { // else it is released without being sent: the next pick gets the slot
					if token, ok := r.GrantToken(); ok { // else there has been no grant yet
						taken[token].Add(1)
					}
				}
				r.Release(OutcomeDone)
			}
		})
	}
	for i := 1; i <= slots; i++ {
		g := Grant{App: "web", Machine: "m1", Token: uint64(i), For: time.Hour}
		var twice sync.WaitGroup
		for range 2 {
			twice.Go(func() { b.AcceptGrant(g) })
		}
		if i%7 == 0 {
			twice.Go(func() {
				g := g
				g.Revoked = true
				b.AcceptGrant(g)
			})
		}
		twice.Wait()
		for c.remember().granted().len() >= ticketsMax-2 {
			runtime.Gosched()
		}
	}
	over.Store(true)
	picks.Wait()
	total := 0
	for i := range taken {
		n := int(taken[i].Load())
		total += n
		if n > 1 {
			t.Errorf("the slot with token %d was used %d times", i, n)
		}
	}
	if total < slots/2 {
		t.Errorf("%d of %d slots were used", total, slots)
	}
	if n, in := est(c.est.Load()).grant(); !in || n != c.remember().granted().len() {
		t.Errorf("%d slots are counted (%v), %d at hand", n, in, c.remember().granted().len())
	}
	f.Apply(RemoveApp{ID: "web"})
}

// Picks use the number of available slots in the estimate. It is the true number, whatever arrives,
// is used, is given back, is revoked or expires.
func TestSlotsAtHandAreCounted(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		f, b, c := newGranted(t)
		now := time.Unix(1000, 0)
		b.Tick(now)
		var token, incarnation uint64 = 0, 1
		any := func() uint64 { return rapid.Uint64Range(1, token+1).Draw(rt, "token") }
		rt.Repeat(map[string]func(*rapid.T){
			"": func(rt *rapid.T) {
				n, in := est(c.est.Load()).grant()
				if m := c.mem.Load(); in && m != nil && m.tickets.Load() != nil && n != m.tickets.Load().len() {
					rt.Fatalf("%d slots counted, %d at hand", n, m.tickets.Load().len())
				}
			},
			"take": func(*rapid.T) {
				token++
				b.AcceptGrant(Grant{App: "web", Machine: "m1", Token: token, For: time.Second})
			},
			"take again": func(*rapid.T) {
				b.AcceptGrant(Grant{App: "web", Machine: "m1", Token: any(), For: time.Second})
			},
			"revoke": func(*rapid.T) {
				b.AcceptGrant(Grant{App: "web", Machine: "m1", Token: any(), Revoked: true})
			},
			"use": func(*rapid.T) {
				if r, err := b.Pick(Request{App: "web", Rand: 1}); err == nil {
					r.GrantToken()
					r.Release(OutcomeDone)
				}
			},
			"give back": func(*rapid.T) {
				if r, err := b.Pick(Request{App: "web", Rand: 1}); err == nil {
					r.Release(OutcomeCanceled)
				}
			},
			"tick": func(rt *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(1, 3000).Draw(rt, "ms")) * time.Millisecond)
				b.Tick(now)
			},
			"owner starts again": func(*rapid.T) {
				incarnation++
				apply(t, f, PutMachine{
					Machine{
						ID: "m1", App: "web", Region: "nrt", Owner: "o", State: StateStarted, Limits: Limits{Hard: 2},
					},
					Version{incarnation, 1},
				})
			},
		})
	})
}

// A node never has more in flight at a machine than its hard limit, whatever a strategy chooses:
// even one that ignores the limit, or looked before others were quicker.
func TestOwnRequestsStayBelowTheHardLimit(t *testing.T) {
	const hard = 3
	f := newFleet(t, "edge", "nrt")
	first := StrategyFunc(
		func(v *View, _ Request) (Slot, bool) { return v.Slot(0, TierReady, 0), true },
	)
	apply(t, f, PutApp{App{ID: "web", Limits: Limits{Hard: hard}, Strategy: first}},
		PutMachine{machine("m1", "nrt", StateStarted), Version{1, 1}})
	b, err := New(f, Config{})
	if err != nil {
		t.Fatal(err)
	}
	var held []Reservation
	for range 2 * hard {
		if r, err := b.Pick(Request{App: "web"}); err == nil {
			held = append(held, r)
		} else if !errors.Is(err, ErrFull) {
			t.Fatal(err)
		}
	}
	if len(held) != hard || b.InFlight("web") != hard {
		t.Errorf("%d picked and %d in flight, with a hard limit of %d", len(held), b.InFlight("web"),
			hard)
	}
	held[0].Release(OutcomeDone)
	if _, err := b.Pick(Request{App: "web"}); err != nil {
		t.Errorf("after one has left: %v", err)
	}
}

// A request that insists goes to a machine that is full only by the estimate, and to no other.
func TestARequestThatInsistsAsksTheOwner(t *testing.T) {
	const hard = 3 + granting.FewSlots
	full := Load{InFlight: hard, Limits: Limits{Hard: hard}, State: StateStarted, Epoch: 1, Seq: 1}
	for name, tt := range map[string]struct {
		own  int // requests of this node
		does func(t *testing.T, r *Reservation)
		want bool
	}{
		"room":           {1, func(*testing.T, *Reservation) {}, true},
		"full of others": {1, func(_ *testing.T, r *Reservation) { over := full; over.InFlight += hard; r.Observe(over) }, true},
		"full of ours":   {hard, func(*testing.T, *Reservation) {}, false},
		"said full":      {1, func(_ *testing.T, r *Reservation) { r.Observe(full); r.Release(OutcomeBounced) }, false},
		"away": {1, func(_ *testing.T, r *Reservation) {
			l := full
			l.InFlight, l.State = 0, StateStopped
			r.Observe(l)
			r.Release(OutcomeBounced)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := NewFleet(FleetConfig{Node: "edge", Region: "nrt"})
			if err != nil {
				t.Fatal(err)
			}
			m := Machine{
				ID: "m1", App: "web", Region: "nrt", Owner: "worker", State: StateStarted, Epoch: 1,
				Limits: Limits{Hard: hard},
			}
			if err := f.Apply(PutApp{App: App{ID: "web", Limits: Limits{Hard: hard}}}, PutMachine{Machine: m, Version: Version{Incarnation: 1, Seq: 1}}); err != nil {
				t.Fatal(err)
			}
			b, err := New(f, Config{})
			if err != nil {
				t.Fatal(err)
			}
			var held []Reservation
			for range tt.own {
				r, err := b.Pick(Request{App: "web"})
				if err != nil {
					t.Fatal(err)
				}
				held = append(held, r)
			}
			tt.does(t, &held[0])
			plain, err := b.Pick(Request{App: "web"})
			if roomy := name == "room"; (err == nil) != roomy {
				t.Fatalf("without insisting: %v", err)
			} else if roomy {
				plain.Release(OutcomeCanceled)
			}
			r, err := b.Pick(Request{App: "web", Insist: true})
			if (err == nil) != tt.want || err != nil && !errors.Is(err, ErrNoMachine) {
				t.Fatalf("insisting: %v, want a machine: %v", err, tt.want)
			}
			if err == nil {
				r.Release(OutcomeCanceled)
			}
			if _, err := b.Pick(Request{App: "web", Insist: true, Tried: []MachineID{"m1"}}); err == nil {
				t.Error("it goes where it has been")
			}
		})
	}
}
