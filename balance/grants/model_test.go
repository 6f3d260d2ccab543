package grants

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
	"pgregory.net/rapid"
)

// pools is a model of edges and owners that grant their slots. Messages may be lost, late,
// duplicated and out of order, and any node may crash.
type pools struct {
	t      *rapid.T
	now    time.Time
	edges  []*poolEdge
	owners []*poolOwner
	mail   []letter
	served int
	asked  int // requests of clients that are still there
}

type poolEdge struct {
	id     balance.NodeID
	f      *balance.Fleet
	b      *balance.Balancer
	rows   []*balance.Watcher // by owner
	parked []*poolRequest
}

type poolOwner struct {
	id          balance.NodeID
	incarnation uint64
	f           *balance.Fleet
	g           *Granter
	gates       []*balance.Gate
	running     []*poolRequest
}

// poolRequest is one try of one request.
type poolRequest struct {
	edge  *poolEdge // a crash makes another
	res   balance.Reservation
	gate  *balance.Gate
	owner *poolOwner
}

// letter is a message on its way.
type letter struct {
	what    string
	lossy   bool // may be lost or doubled
	deliver func()
}

const poolHard = 2

func (p *pools) post(what string, lossy bool, deliver func()) {
	p.mail = append(p.mail, letter{what, lossy, deliver})
}

func (p *pools) newOwner(i int, incarnation uint64) *poolOwner {
	o := &poolOwner{id: balance.NodeID(fmt.Sprint("owner", i)), incarnation: incarnation}
	var err error
	if o.f, err = balance.NewFleet(balance.FleetConfig{Node: o.id, Region: []string{"nrt", "fra"}[i], Incarnation: incarnation}); err != nil {
		p.t.Fatal(err)
	}
	o.f.Apply(
		balance.PutApp{App: balance.App{ID: "gpu", Limits: balance.Limits{Soft: 1, Hard: poolHard}}},
	)
	for m := range 2 {
		g, err := o.f.Host(balance.Machine{ID: balance.MachineID(fmt.Sprint(o.id, "-", m)), App: "gpu", Region: o.f.Region()})
		if err != nil {
			p.t.Fatal(err)
		}
		token, _ := g.Start(0)
		g.Ready(token)
		o.gates = append(o.gates, g)
	}
	o.g, err = New(
		o.f,
		Config{Now: func() time.Time { return p.now }, Give: func(to balance.NodeID, g balance.Grant) {
			p.post("give", true, func() {
				i := slices.IndexFunc(p.edges, func(e *poolEdge) bool { return e.id == to })
				p.edges[i].b.AcceptGrant(g)
			})
		}},
	)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, e := range p.edges {
		if len(e.rows) > i {
			e.rows[i].Close()
			e.rows[i] = o.f.Watch()
		}
	}
	return o
}

func (p *pools) newEdge(i int) *poolEdge {
	e := &poolEdge{id: balance.NodeID(fmt.Sprint("edge", i))}
	var err error
	if e.f, err = balance.NewFleet(balance.FleetConfig{Node: e.id, Region: "nrt"}); err != nil {
		p.t.Fatal(err)
	}
	e.b, err = balance.New(
		e.f,
		balance.Config{
			Distance: distances{"nrt": time.Millisecond, "fra": 200 * time.Millisecond},
			GiveBack: func(owner balance.NodeID, g balance.Grant) {
				p.post("back", true, func() { p.owner(owner).g.Back(e.id, g) })
			},
		},
	)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, o := range p.owners {
		e.rows = append(e.rows, o.f.Watch())
	}
	p.rows(e)
	return e
}

func (p *pools) owner(id balance.NodeID) *poolOwner {
	return p.owners[slices.IndexFunc(p.owners, func(o *poolOwner) bool { return o.id == id })]
}

func (p *pools) rows(e *poolEdge) {
	for _, w := range e.rows {
		if err := e.f.Apply(w.Take()...); err != nil {
			p.t.Fatal(err)
		}
	}
}

// ask tells the owners how many requests wait at an edge.
func (p *pools) ask(e *poolEdge) {
	sum, n := 0, 0
	for owner, part := range e.b.Asks("gpu", len(e.parked)) {
		sum, n = sum+max(part, 0), n+1
		p.post("ask", true, func() { p.owner(owner).g.Ask(e.id, "gpu", part) })
	}
	if n != len(p.owners) || sum != len(e.parked) {
		p.t.Fatalf("%d parked, %d owners told of %d", len(e.parked), n, sum)
	}
}

// send sends the oldest parked request, if a machine is found for it.
func (p *pools) send(e *poolEdge) bool {
	if len(e.parked) == 0 {
		return false
	}
	r := e.parked[0]
	res, err := e.b.Pick(balance.Request{App: "gpu", Rand: rapid.Uint64Min(1).Draw(p.t, "rand")})
	if err != nil {
		return false
	}
	e.parked = e.parked[1:]
	r.res = res
	id, owner := res.Machine().ID, res.Machine().Owner
	token, _ := r.res.GrantToken()
	p.post("request", false, func() { p.reach(r, p.owner(owner), id, token) })
	return true
}

func (p *pools) reach(r *poolRequest, o *poolOwner, id balance.MachineID, token uint64) {
	gate := o.f.Gate("gpu", id)
	l, b := gate.Enter(token, 0, 0)
	if b != balance.BounceNone {
		p.post("bounce", false, func() { p.again(r, l, balance.OutcomeBounced) })
		return
	}
	r.gate, r.owner = gate, o
	o.running = append(o.running, r)
}

// finish answers a running request.
func (p *pools) finish(o *poolOwner, i int, outcome balance.Outcome) {
	r := o.running[i]
	o.running = slices.Delete(o.running, i, i+1)
	l := r.gate.Load()
	r.gate.Leave()
	p.post("answer", false, func() {
		if outcome == balance.OutcomeDone {
			if !p.gone(r) {
				r.res.Observe(l)
				r.res.Release(balance.OutcomeDone)
				p.served, p.asked = p.served+1, p.asked-1
			}
			return
		}
		p.again(r, balance.Load{}, outcome)
	})
}

// again parks a request whose try failed, at its old place.
func (p *pools) again(r *poolRequest, l balance.Load, outcome balance.Outcome) {
	if p.gone(r) {
		return
	}
	if l.Seq > 0 {
		r.res.Observe(l)
	}
	r.res.Release(outcome)
	r.edge.parked = slices.Insert(r.edge.parked, 0, r)
}

// gone reports whether a request's edge has crashed, and its client with it.
func (p *pools) gone(r *poolRequest) bool { return !slices.Contains(p.edges, r.edge) }

func (p *pools) tick(d time.Duration) {
	p.now = p.now.Add(d)
	for _, o := range p.owners {
		o.g.Tick()
	}
	for _, e := range p.edges {
		p.rows(e)
		e.b.Tick(p.now)
		p.ask(e)
	}
}

func (p *pools) start(g *balance.Gate) {
	token, a := g.Start(g.Load().Epoch)
	if a != balance.StartAccepted || !g.Ready(token) {
		p.t.Fatalf("start: %v", a)
	}
}

func (p *pools) check() {
	for _, o := range p.owners {
		for _, g := range o.gates {
			l, running := g.Load(), 0
			for _, r := range o.running {
				if r.gate == g {
					running++
				}
			}
			if running > poolHard || l.InFlight > poolHard {
				p.t.Fatalf("%d run and %d are in flight where %d may", running, l.InFlight, poolHard)
			}
			if l.InFlight != running+g.Granted() {
				p.t.Fatalf("%d in flight: %d run and %d are granted", l.InFlight, running, g.Granted())
			}
		}
	}
}

// Whatever is lost, late or duplicated, and whichever node crashes: the hard limit holds, no
// machine closes while a slot is reserved, each request is served when the faults end, all slots
// return, and an idle app can sleep.
func TestGrantsSurviveFaults(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &pools{t: t, now: time.Unix(1000, 0)}
		for i := range 2 {
			p.owners = append(p.owners, p.newOwner(i, 1))
		}
		for i := range 3 {
			p.edges = append(p.edges, p.newEdge(i))
		}
		edge := func() *poolEdge { return p.edges[rapid.IntRange(0, len(p.edges)-1).Draw(t, "edge")] }
		owner := func() (int, *poolOwner) {
			i := rapid.IntRange(0, len(p.owners)-1).Draw(t, "owner")
			return i, p.owners[i]
		}
		letterAt := func() int {
			if len(p.mail) == 0 {
				t.Skip("no mail")
			}
			return rapid.IntRange(0, len(p.mail)-1).Draw(t, "letter")
		}
		t.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) { p.check() },
			"arrive": func(*rapid.T) {
				e := edge()
				e.parked = append(e.parked, &poolRequest{edge: e})
				p.asked++
				p.ask(e)
			},
			"send": func(*rapid.T) { p.send(edge()) },
			"leave while parked": func(*rapid.T) {
				e := edge()
				if len(e.parked) == 0 {
					t.Skip("nobody waits")
				}
				e.parked = e.parked[1:]
				p.asked--
			},
			"leave when handed over": func(*rapid.T) {
				if res, err := edge().b.Pick(balance.Request{App: "gpu", Rand: 1}); err == nil {
					res.Release(balance.OutcomeCanceled)
				}
			},
			"deliver": func(*rapid.T) {
				i := letterAt()
				m := p.mail[i]
				p.mail = slices.Delete(p.mail, i, i+1)
				m.deliver()
			},
			"lose": func(*rapid.T) {
				i := letterAt()
				if !p.mail[i].lossy {
					t.Skip("its sender would notice")
				}
				p.mail = slices.Delete(p.mail, i, i+1)
			},
			"double": func(*rapid.T) {
				i := letterAt()
				if !p.mail[i].lossy {
					t.Skip("once only")
				}
				p.mail[i].deliver()
			},
			"owner out of reach": func(*rapid.T) {
				e := edge()
				if len(e.parked) == 0 {
					t.Skip("nobody waits")
				}
				if res, err := e.b.Pick(balance.Request{App: "gpu", Rand: 1}); err == nil {
					res.GrantToken()
					res.NotSent()
					res.Release(balance.OutcomeError)
				}
			},
			"finish": func(*rapid.T) {
				_, o := owner()
				if len(o.running) == 0 {
					t.Skip("nothing runs")
				}
				p.finish(o, rapid.IntRange(0, len(o.running)-1).Draw(t, "request"), balance.OutcomeDone)
			},
			"tick": func(*rapid.T) { p.tick(time.Duration(rapid.IntRange(1, 3000).Draw(t, "ms")) * time.Millisecond) },
			"sleep and wake": func(*rapid.T) {
				_, o := owner()
				g := o.gates[rapid.IntRange(0, 1).Draw(t, "gate")]
				gen, ok := g.Cordon()
				if !ok {
					t.Skip("it does not run")
				}
				if a := o.g.apps["gpu"]; a != nil && a.slots.Lent(g) {
					t.Fatal("a slot is lent of a machine that is to sleep")
				}
				l := g.Load()
				token, closed := g.Close(gen, false)
				if closed != (l.InFlight == 0) {
					t.Fatalf("closed: %v, with %d in flight, %d of them granted", closed, l.InFlight, g.Granted())
				}
				if !closed {
					g.Uncordon(gen)
					return
				}
				g.Closed(token, false)
				p.start(g)
			},
			"machine dies": func(*rapid.T) {
				_, o := owner()
				g := o.gates[rapid.IntRange(0, 1).Draw(t, "gate")]
				g.Exited(g.Load().Epoch, true)
				if g.Granted() > 0 {
					t.Fatalf("%d slots granted of a machine that is dead", g.Granted())
				}
				for i := len(o.running) - 1; i >= 0; i-- {
					if o.running[i].gate == g {
						p.finish(o, i, balance.OutcomeError)
					}
				}
				p.start(g)
			},
			"edge crashes": func(*rapid.T) {
				i := rapid.IntRange(0, len(p.edges)-1).Draw(t, "edge")
				old := p.edges[i]
				for _, o := range p.owners { // its connections are cut
					for j := len(o.running) - 1; j >= 0; j-- {
						if r := o.running[j]; r.edge == old {
							o.running = slices.Delete(o.running, j, j+1)
							r.gate.Leave()
						}
					}
				}
				p.asked = 0
				for _, e := range p.edges {
					if e != old {
						p.asked += len(e.parked) + e.b.InFlight("gpu")
					}
				}
				for _, w := range old.rows {
					w.Close()
				}
				p.edges[i] = p.newEdge(i)
			},
			"owner crashes": func(*rapid.T) {
				i, o := owner()
				for len(o.running) > 0 {
					p.finish(o, 0, balance.OutcomeError)
				}
				p.owners[i] = p.newOwner(i, o.incarnation+1)
			},
		})
		p.settle()
	})
}

// settle ends the faults: everything is delivered, whatever runs ends, and time passes.
func (p *pools) settle() {
	deliver := func() {
		for len(p.mail) > 0 {
			m := p.mail[0]
			p.mail = p.mail[1:]
			m.deliver()
			p.check()
		}
	}
	for round := 0; p.asked > 0; round++ {
		if round > 500 {
			p.t.Fatalf("%d requests are not served although all is well", p.asked)
		}
		deliver()
		for _, o := range p.owners {
			for len(o.running) > 0 {
				p.finish(o, 0, balance.OutcomeDone)
			}
		}
		for _, e := range p.edges {
			for p.send(e) {
			}
		}
		deliver()
		p.tick(100 * time.Millisecond)
	}
	deliver()
	for _, o := range p.owners {
		for len(o.running) > 0 { // of clients that are gone
			p.finish(o, 0, balance.OutcomeDone)
		}
	}
	for range 30 {
		p.tick(500 * time.Millisecond)
		deliver()
	}
	for _, o := range p.owners {
		for _, g := range o.gates {
			g.TakeSample()
		}
	}
	for range 4 {
		p.tick(500 * time.Millisecond)
		deliver()
	}
	for _, o := range p.owners {
		for _, g := range o.gates {
			if l, _, used := g.TakeSample(); l.InFlight != 0 || used {
				p.t.Fatalf(
					"nobody uses the app, and %d are in flight (%d granted), used: %v", l.InFlight, g.Granted(),
					used,
				)
			}
			gen, _ := g.Cordon()
			if _, ok := g.Close(gen, false); !ok {
				p.t.Fatal("an idle machine does not go to sleep")
			}
		}
	}
}
