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
	// findFor bounds the search for an app: a question to nodes on the other side of the planet, and
	// the first heartbeats of a node that has just begun.
	findFor = 3 * time.Second
	// settled is when a node that has just begun has heard of all others: they speak once a second.
	settled = 2500 * time.Millisecond
	// askedFor is how long it is remembered that an app was asked for.
	askedFor = 10 * time.Second
	// askedMax bounds the memory, and with findMax what clients can make the nodes ask each other.
	askedMax  = 10_000
	findMax   = 16 // apps at once
	findNodes = 16 // that are asked for one
)

// finder picks by the waiting room. Of an app of which this node has heard nothing it asks the
// workers once, before it says that there is none.
type finder struct {
	*autostart.Autostart
	n     *Node
	group singleflight.Group

	mu    sync.Mutex
	busy  int
	asked map[balance.AppID]time.Time // until when that is remembered
	hints map[balance.MachineKey]time.Time
}

// Acquire implements backhaul's Picker.
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

// known reports whether an app's settings have come; rows of its machines may come before.
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

// begin counts a search in, if there is room for one.
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

// ask asks one node, and takes in what it says.
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

// hinted asks for machines that a refusal has named, and of which this node has not heard that they
// are ready, before the request is tried again.
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
			// an error says that its owner does not answer: then it is no help
			_ = f.n.edge.owners.orders.Ready(ctx, m)
		})
	}
	all.Wait()
}

// hintFor bounds how long a request waits for what a refusal has named.
const hintFor = 500 * time.Millisecond

// news reports whether a machine is worth asking for: not what is known, or was asked for just now.
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
