package node

import (
	"context"
	"errors"
	"reflect"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/backhaul"
	"github.com/ebbkit/ebb/balance"
)

const (
	// findFor bounds the search for an app: one question to nodes on the other side of the planet,
	// and the first heartbeats of a node that has just started.
	findFor = 3 * time.Second
	// settled is how long a node that has just started may need to hear of all others: they send a
	// heartbeat once a second.
	settled = 2500 * time.Millisecond
	// askedFor is how long the node remembers that it asked for an app.
	askedFor = 10 * time.Second
	// askedMax bounds that memory and, with findMax, how much clients can make the nodes ask each
	// other.
	askedMax  = 10_000
	findMax   = 16 // apps at once
	findNodes = 16 // nodes that are asked for one app
)

// finder picks through the waiting room. Before it says that there is no such app, it asks the
// workers once for an app that this node has not heard of.
type finder struct {
	*autostart.Autostart
	n     *Node
	group singleflight.Group

	mu    sync.Mutex
	busy  int
	asked map[balance.AppID]time.Time // until when that is remembered
	hints map[balance.MachineKey]time.Time
}

// Acquire implements [backhaul.Picker].
func (f *finder) Acquire(ctx context.Context, r *balance.Request) (balance.Reservation, error) {
	res, err := f.Autostart.Acquire(ctx, r)
	if err != nil && f.missing(r.App, err) && f.find(ctx, r.App) {
		return f.Autostart.Acquire(ctx, r)
	}
	return res, err
}

// missing reports whether this node lacks an app's settings, or has heard of no machine of it.
func (f *finder) missing(app balance.AppID, err error) bool {
	if errors.Is(err, balance.ErrNoApp) {
		return true
	}
	rows, ok := f.n.fleet.App(app)
	return !ok || rows.Len() == 0 || !known(rows)
}

// known reports whether an app's settings have arrived; rows of its machines may arrive first.
func known(rows *balance.Snapshot) bool {
	app := rows.App()
	return !reflect.DeepEqual(app, balance.App{ID: app.ID})
}

// find asks the workers for an app, and reports whether one knows it.
func (f *finder) find(ctx context.Context, app balance.AppID) bool {
	if !f.worthwhile(app) {
		return false
	}
	found := f.group.DoChan(string(app), func() (any, error) { return f.search(app), nil })
	select {
	case r := <-found:
		return r.Val.(bool)
	case <-ctx.Done():
		return false
	}
}

func (f *finder) worthwhile(app balance.AppID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if until, ok := f.asked[app]; ok {
		if time.Now().Before(until) {
			return false
		}
		delete(f.asked, app)
	}
	return true
}

// begin counts a new search, if there is room for one.
func (f *finder) begin() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.busy >= findMax {
		return false
	}
	f.busy++
	return true
}

func (f *finder) end(app balance.AppID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.busy--
	if f.asked == nil || len(f.asked) >= askedMax {
		f.asked = map[balance.AppID]time.Time{}
	}
	f.asked[app] = time.Now().Add(askedFor)
}

func (f *finder) search(app balance.AppID) (found bool) {
	if !f.begin() {
		return false
	}
	defer f.end(app)
	ctx, cancel := context.WithTimeout(f.n.work, findFor)
	defer cancel()
	asked := map[balance.NodeID]bool{}
	for {
		var answers []<-chan bool
		for _, of := range f.n.peers.link.Nodes() {
			if of.Worker && of.State == nodeLive && !asked[of.ID] && len(asked) < findNodes {
				asked[of.ID] = true
				answers = append(answers, f.ask(ctx, of.ID, app))
			}
		}
		for _, a := range answers {
			found = <-a || found
		}
		if found || len(answers) == 0 && time.Since(f.n.shown.started) > settled {
			return found
		}
		select {
		case <-time.After(50 * time.Millisecond): // others may have been heard by then
		case <-ctx.Done():
			return false
		}
	}
}

// ask asks one node and applies its answer.
func (f *finder) ask(ctx context.Context, of balance.NodeID, id balance.AppID) <-chan bool {
	done := make(chan bool, 1)
	f.n.lasting.Go(func() {
		app, rows, err := f.n.edge.owners.orders.App(ctx, of, id)
		if err != nil || app.ID != id {
			done <- false
			return
		}
		found := len(rows) > 0
		if have, ok := f.n.fleet.App(id); !ok || !known(have) {
			found = f.n.fleet.Apply(balance.PutApp{App: app}) == nil || found
		}
		for _, r := range rows {
			if r.Machine.App == id {
				f.n.told(r)
			}
		}
		done <- found
	})
	return done
}

// hinted handles a refusal that names ready machines. Before the request is retried, it asks for
// those machines that this node does not know to be ready.
func (f *finder) hinted(e backhaul.Event) {
	if e.Kind != backhaul.EventBounce || len(e.Ready) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(f.n.work, hintFor)
	defer cancel()
	var all sync.WaitGroup
	for _, m := range e.Ready {
		if m.Owner == f.n.config.Node || !f.news(m) {
			continue
		}
		all.Go(func() {
			// An error means that the machine's owner does not answer, so the hint is no help.
			_ = f.n.edge.owners.orders.Ready(ctx, m)
		})
	}
	all.Wait()
}

// hintFor bounds how long a request waits for the machines that a refusal named.
const hintFor = 500 * time.Millisecond

// news reports whether a machine is worth asking for: not if it is known to be ready or was asked
// for in the last second.
func (f *finder) news(m balance.Machine) bool {
	if rows, ok := f.n.fleet.App(m.App); ok {
		if held, ok := rows.Machine(m.ID); ok && held.State == balance.StateStarted {
			return false
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if now.Before(f.hints[m.Key()]) {
		return false
	}
	if f.hints == nil || len(f.hints) >= askedMax {
		f.hints = map[balance.MachineKey]time.Time{}
	}
	f.hints[m.Key()] = now.Add(time.Second)
	return true
}
