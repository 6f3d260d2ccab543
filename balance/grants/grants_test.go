package grants

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// Four nodes share twenty machines that take one request at a time, at 90 % of their capacity.
// Slots come by grants, in this process, so no request is ever bounced, all are served, and no slot
// is lost.
func TestGrantsServeWithoutBounces(t *testing.T) {
	const nodes, machines = 4, 20
	owner := newFleet(t, "w", "nrt")
	apply(
		t, owner, balance.PutApp{App: balance.App{ID: "web", Limits: balance.Limits{Soft: 1, Hard: 1}}},
	)
	gates := map[balance.MachineID]*balance.Gate{}
	for i := range machines {
		id := balance.MachineID(fmt.Sprint("m", i))
		g, err := owner.Host(balance.Machine{ID: id, App: "web", Region: "nrt"})
		if err != nil {
			t.Fatal(err)
		}
		start(t, g)
		gates[id] = g
	}
	now := time.Unix(0, 0)
	edges := map[balance.NodeID]*balance.Balancer{}
	granter, err := New(
		owner,
		Config{
			Now:  func() time.Time { return now },
			Give: func(n balance.NodeID, g balance.Grant) { edges[n].AcceptGrant(g) },
		},
	)
	if err != nil {
		t.Fatal(err)
	}
	rows := owner.Watch()
	updates := rows.Take()
	parked := map[balance.NodeID]int{}
	var names []balance.NodeID
	for i := range nodes {
		n := balance.NodeID(fmt.Sprint("edge", i))
		f := newFleet(t, n, "nrt")
		apply(t, f, updates...)
		b, err := balance.New(f, balance.Config{})
		if err != nil {
			t.Fatal(err)
		}
		names, edges[n] = append(names, n), b
	}
	for _, n := range names {
		granter.Ask(n, "web", 0)
	}
	type running struct {
		res   balance.Reservation
		gate  *balance.Gate
		until time.Time
	}
	var inFlight []running
	served, bounced := 0, 0
	r := rand.New(rand.NewPCG(1, 2))
	for step := range 3000 { // 10 ms each
		now = now.Add(10 * time.Millisecond)
		kept := inFlight[:0]
		for i := range inFlight {
			x := inFlight[i]
			if now.Before(x.until) {
				kept = append(kept, x)
				continue
			}
			x.res.Observe(x.gate.Load())
			x.gate.Leave()
			x.res.Release(balance.OutcomeDone)
			served++
		}
		inFlight = kept
		for _, n := range names {
			if r.Float64() < 0.9*machines/20/nodes {
				parked[n]++
				granter.Ask(n, "web", parked[n])
			}
			for parked[n] > 0 {
				res, err := edges[n].Pick(balance.Request{App: "web", Rand: r.Uint64() | 1})
				if err != nil {
					if !errors.Is(err, balance.ErrFull) {
						t.Fatal(err)
					}
					break
				}
				token, ok := res.GrantToken()
				if !ok {
					t.Fatal("a pick without a grant while the owner grants")
				}
				g := gates[res.Machine().ID]
				if _, b := g.Enter(token, 0, 0); b != balance.BounceNone {
					bounced++
					res.Release(balance.OutcomeBounced)
					continue
				}
				parked[n]--
				granter.Ask(n, "web", parked[n])
				inFlight = append(
					inFlight, running{res, g, now.Add(time.Duration(100+r.IntN(200)) * time.Millisecond)},
				)
			}
		}
		if step%10 == 0 {
			granter.Tick()
			for _, n := range names {
				granter.Ask(n, "web", parked[n])
				edges[n].Tick(now)
			}
		}
	}
	waiting := 0
	for _, n := range parked {
		waiting += n
	}
	t.Logf("%d served, %d bounced, %d waiting at the end", served, bounced, waiting)
	if served < 2000 || waiting > 20 {
		t.Errorf("%d served, %d waiting: slots are not handed to those who need them", served, waiting)
	}
	if bounced*20 > served {
		t.Errorf("%d of %d were bounced, want hardly any", bounced, served)
	}
	for i := range inFlight {
		inFlight[i].gate.Leave()
		inFlight[i].res.Release(balance.OutcomeDone)
	}
	now = now.Add(time.Minute)
	granter.Tick()
	for id, g := range gates {
		if n := g.InFlight(); n != 0 {
			t.Errorf("%s: %d in flight after all have left and unused grants were taken back", id, n)
		}
	}
}

// Nodes take, use, drop and lose slots concurrently: a machine never has more than its limit, and
// all slots return.
func TestGrantsUnderContention(t *testing.T) {
	const nodes, machines, hard, each = 4, 3, 2, 300
	owner := newFleet(t, "w", "nrt")
	apply(
		t, owner,
		balance.PutApp{App: balance.App{ID: "web", Limits: balance.Limits{Soft: 1, Hard: hard}}},
	)
	gates := map[balance.MachineID]*balance.Gate{}
	running := map[balance.MachineID]*atomic.Int32{}
	for i := range machines {
		id := balance.MachineID(fmt.Sprint("m", i))
		g, err := owner.Host(balance.Machine{ID: id, App: "web", Region: "nrt"})
		if err != nil {
			t.Fatal(err)
		}
		start(t, g)
		gates[id], running[id] = g, new(atomic.Int32)
	}
	var now atomic.Int64 // milliseconds
	edges := map[balance.NodeID]*balance.Balancer{}
	granter, err := New(owner, Config{
		Now:  func() time.Time { return time.UnixMilli(1 + now.Load()) },
		Give: func(n balance.NodeID, g balance.Grant) { edges[n].AcceptGrant(g) },
	})
	if err != nil {
		t.Fatal(err)
	}
	rows := owner.Watch()
	updates := rows.Take()
	rows.Close()
	for i := range nodes {
		n := balance.NodeID(fmt.Sprint("edge", i))
		f := newFleet(t, n, "nrt")
		apply(t, f, updates...)
		if edges[n], err = balance.New(f, balance.Config{GiveBack: func(_ balance.NodeID, g balance.Grant) { granter.Back(n, g) }}); err != nil {
			t.Fatal(err)
		}
	}
	var served atomic.Int64
	var wg sync.WaitGroup
	for n, b := range edges {
		for range 4 {
			wg.Go(func() {
				for i := range each {
					for _, part := range b.Asks("web", 1) {
						granter.Ask(n, "web", part)
					}
					r, err := b.Pick(balance.Request{App: "web"})
					if err != nil {
						b.Tick(time.UnixMilli(1 + now.Add(10)))
						granter.Tick()
						continue
					}
					id := r.Machine().ID
					if i%7 == 0 { // its client has left
						r.Release(balance.OutcomeCanceled)
						continue
					}
					token, _ := r.GrantToken()
					if i%11 == 0 { // its owner cannot be reached
						r.NotSent()
						r.Release(balance.OutcomeError)
						continue
					}
					if _, bounce := gates[id].Enter(token, 0, 0); bounce != balance.BounceNone {
						r.Release(balance.OutcomeBounced)
						continue
					}
					if running[id].Add(1) > hard {
						t.Errorf("%s serves more than %d", id, hard)
					}
					served.Add(1)
					running[id].Add(-1)
					gates[id].Leave()
					r.Release(balance.OutcomeDone)
				}
			})
		}
	}
	wg.Wait()
	if served.Load() == 0 {
		t.Error("nobody was served")
	}
	for range 3 {
		now.Add(20_000)
		granter.Tick()
	}
	for id, g := range gates {
		if n := g.InFlight(); n != 0 || g.Granted() != 0 {
			t.Errorf("%s: %d in flight and %d granted when all is over", id, n, g.Granted())
		}
	}
}

// Nodes and owners agree on which machines' slots are granted. In an app with machines of many
// limits each machine is used while it is idle, by a grant or by a guess, and an owner is asked
// exactly if one of its machines is granted.
func TestOwnersAndNodesAgreeOnWhatIsGranted(t *testing.T) {
	owner := newFleet(t, "w", "nrt")
	rows := owner.Watch()
	apply(t, owner, balance.PutApp{App: balance.App{ID: "web"}})
	const most = 5 // two more than are granted
	gates := map[balance.MachineID]*balance.Gate{}
	for hard := 1; hard <= most; hard++ {
		id := balance.MachineID(fmt.Sprint("takes", hard))
		g, err := owner.Host(
			balance.Machine{ID: id, App: "web", Region: "nrt", Limits: balance.Limits{Hard: hard}},
		)
		if err != nil {
			t.Fatal(err)
		}
		start(t, g)
		gates[id] = g
	}
	edge := newFleet(t, "edge", "nrt")
	apply(t, edge, rows.Take()...)
	b, err := balance.New(edge, balance.Config{})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1000, 0)
	granter, err := New(
		owner,
		Config{
			Now:  func() time.Time { return now },
			Give: func(_ balance.NodeID, g balance.Grant) { b.AcceptGrant(g) },
		},
	)
	if err != nil {
		t.Fatal(err)
	}
	used := map[balance.MachineID]int{}
	for i := range 200 {
		now = now.Add(tickEvery)
		b.Tick(now)
		granter.Ask("edge", "web", most)
		granter.Tick()
		var held []balance.Reservation
		for n := range most * (most + 1) / 2 { // as many as all take together
			res, err := b.Pick(balance.Request{App: "web", Rand: uint64(i*100 + n + 1)})
			if err != nil {
				break
			}
			token, _ := res.GrantToken()
			if l, bounce := gates[res.Machine().ID].Enter(token, 0, 0); bounce != balance.BounceNone {
				res.Observe(l)
				res.Release(balance.OutcomeBounced)
				continue
			}
			used[res.Machine().ID]++
			held = append(held, res)
		}
		for _, res := range held {
			gates[res.Machine().ID].Leave()
			res.Release(balance.OutcomeDone)
		}
	}
	for id := range gates {
		if used[id] < 100 {
			t.Errorf("%s was used %d times in 200 rounds: %v", id, used[id], used)
		}
	}
	for hard := 1; hard <= most; hard++ {
		f := newFleet(t, "edge", "nrt")
		apply(t, f, balance.PutMachine{Machine: balance.Machine{ID: "m", App: "web", Region: "nrt", Owner: "w", State: balance.StateStarted, Limits: balance.Limits{Hard: hard}}, Version: balance.Version{Incarnation: 1, Seq: 1}})
		b, err := balance.New(f, balance.Config{})
		if err != nil {
			t.Fatal(err)
		}
		asked := 0
		for range b.Asks("web", 1) {
			asked++
		}
		if want := (balance.Limits{Hard: hard}).Granted(); asked != 0 != want {
			t.Errorf(
				"the owner of a machine with a hard limit of %d is asked %d times; granted: %v", hard, asked,
				want,
			)
		}
	}
}
