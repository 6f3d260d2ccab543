package downscale

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// Order says how a machine is to be stopped that need not be surplus: for a deploy, for
// maintenance, by another rule than the policy's. The zero value asks politely.
type Order struct {
	Reason  string // a sentence for people
	Suspend bool   // suspend rather than stop, where the driver can
	// Drain is how long what is in flight may take once the gate has closed over it and its long
	// connections have been told; what is left then is cut off, and the machine is stopped even
	// where it was to be suspended. With 0 the gate only closes when nothing is in flight, and a
	// machine that does not become idle within 30 s is left running.
	Drain time.Duration
}

// ErrBusy is what [Downscaler.Stop] answers when the machine runs on.
var ErrBusy = errors.New("downscale: the machine runs on")

// errEnded is how an order ends that outlives Run.
var errEnded = errors.New("downscale: Run has ended before the machine had stopped")

// stopRequest is an order on its way to Run, and in its hands.
type stopRequest struct {
	ctx   context.Context
	app   balance.AppID
	id    balance.MachineID
	epoch uint64
	order Order
	done  chan error // holds one
}

// orders are those that Run has not taken yet.
type orders struct {
	mu    sync.Mutex
	list  []*stopRequest
	ended bool // Run has, and takes no more
}

func (o *orders) put(w *stopRequest) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.ended {
		o.list = append(o.list, w)
	}
	return !o.ended
}

// end lets no further order in and returns those that are left.
func (o *orders) end() []*stopRequest {
	o.mu.Lock()
	o.ended = true
	o.mu.Unlock()
	return o.take()
}

// take empties the list.
func (o *orders) take() []*stopRequest {
	o.mu.Lock()
	defer o.mu.Unlock()
	list := o.list
	o.list = nil
	return list
}
