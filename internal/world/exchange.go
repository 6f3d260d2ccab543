package world

import (
	"context"
	"sync"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/delay"
)

// reportEvery is how often owners report load and edges report waiting requests. Replies carry load
// too; these reports cover what no reply does.
const reportEvery = 200 * time.Millisecond

// staleAfter is the age from which an edge's report no longer counts.
const staleAfter = 5 * reportEvery

// node is what every node has: a region, and a catalogue of its own that only the exchange fills.
type node struct {
	id     balance.NodeID
	region string
	fleet  *balance.Fleet
}

// exchange carries rows, reports, acknowledgements and commands between the nodes of one process,
// with the same delay as requests. Everything crosses as a value, half a round trip after it was
// sent, in order for each pair of regions.
type exchange struct {
	links *delay.Links
	nodes []*node
	acks  *acks
}

// send calls do at to's end of the link.
func (x *exchange) send(from, to *node, do func()) { x.links.Send(from.region, to.region, do) }

// publish sends the changes of from's rows to all other nodes, until ctx ends. A node that has
// applied a cordon acknowledges it to the machine's owner.
func (x *exchange) publish(ctx context.Context, from *node) error {
	w := from.fleet.Watch()
	defer w.Close()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.C():
		}
		us := own(w.Take(), from.id)
		if len(us) == 0 {
			continue
		}
		for _, to := range x.nodes {
			if to != from {
				x.send(from, to, func() { x.apply(from, to, us) })
			}
		}
	}
}

// own returns the rows that a node wrote itself; the others come from their owners directly.
func own(us []balance.Update, id balance.NodeID) []balance.Update {
	kept := us[:0]
	for _, u := range us {
		if m, ok := u.(balance.PutMachine); ok && m.Machine.Owner == id {
			kept = append(kept, u)
		}
	}
	return kept
}

func (x *exchange) apply(from, to *node, us []balance.Update) {
	if err := to.fleet.Apply(us...); err != nil {
		panic("world: a row that its owner's fleet took is refused by another: " + err.Error())
	}
	for _, u := range us {
		m := u.(balance.PutMachine).Machine
		x.send(to, from, func() { x.acks.put(to.id, m.Key(), m.CordonGen) })
	}
}

// report sends the load of from's machines to the edges until ctx ends.
func (x *exchange) report(ctx context.Context, from *node, app balance.AppID, edges []*node) error {
	t := time.NewTicker(reportEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		var rs []balance.Report
		s, _ := from.fleet.App(app)
		for m := range s.All() {
			if g := from.fleet.Gate(app, m.ID); g != nil && m.State == balance.StateStarted {
				rs = append(
					rs,
					balance.Report{
						App: app, ID: m.ID, Load: g.Load(), Granted: g.Granted(),
						Incarnation: from.fleet.Incarnation(),
					},
				)
			}
		}
		for _, to := range edges {
			x.send(from, to, func() {
				for _, r := range rs {
					to.fleet.Report(r)
				}
			})
		}
	}
}

// acks holds the cordon generations that the nodes have applied, as far as the owners know.
type acks struct {
	mu    sync.Mutex
	seen  map[ackKey]uint64
	nodes []balance.NodeID // whose acknowledgements count: the edges
}

type ackKey struct {
	node    balance.NodeID
	machine balance.MachineKey
}

func (a *acks) put(n balance.NodeID, m balance.MachineKey, gen uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen[ackKey{n, m}] = max(a.seen[ackKey{n, m}], gen)
}

// Acked implements [downscale.Views].
func (a *acks) Acked(app balance.AppID, id balance.MachineID, gen uint64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, n := range a.nodes {
		if a.seen[ackKey{n, balance.MachineKey{App: app, ID: id}}] < gen {
			return false
		}
	}
	return true
}

// demand is what the edges last reported to one worker, or to another edge.
type demand struct {
	mu    sync.Mutex
	edges map[balance.NodeID]edgeDemand
	want  int // how many edges there are
}

type edgeDemand struct {
	parked, inFlight int
	at               time.Time // by the receiver's own clock
}

func newDemand(edges int) *demand {
	return &demand{edges: map[balance.NodeID]edgeDemand{}, want: edges}
}

func (d *demand) put(n balance.NodeID, inFlight, parked int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.edges[n] = edgeDemand{parked: parked, inFlight: inFlight, at: time.Now()}
}

// sum returns the edges' requests in flight and parked, by their recent reports.
func (d *demand) sum() (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range d.edges {
		if time.Since(e.at) < staleAfter {
			n += e.inFlight + e.parked
		}
	}
	return n
}

// Parked implements [downscale.Views].
func (d *demand) Parked(balance.AppID) (n int, fresh bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	fresh = len(d.edges) >= d.want
	for _, e := range d.edges {
		n += e.parked
		fresh = fresh && time.Since(e.at) < staleAfter
	}
	return n, fresh
}

// views is what a worker learns from others. Each region has one owner: workers do not tell each
// other their loads.
type views struct {
	*demand
	*acks
}

// Load implements [downscale.Views].
func (views) Load(balance.AppID, balance.MachineID) (inFlight, idle int, told, fresh bool) {
	return 0, 0, false, false
}

// call runs do at to's end of the link and returns its answer, or ctx's error.
func call[T any](
	ctx context.Context, x *exchange, from, to *node, do func() (T, error),
) (T, error) {
	type answer struct {
		v   T
		err error
	}
	back := make(chan answer, 1)
	x.send(from, to, func() {
		v, err := do()
		x.send(to, from, func() { back <- answer{v, err} })
	})
	select {
	case a := <-back:
		return a.v, a.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}
