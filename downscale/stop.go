package downscale

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// Order says how to stop a machine that need not be surplus: for a deploy, for maintenance, or by
// another rule than the policy's. The zero value waits for idleness and cuts nothing off.
type Order struct {
	Reason  string // a sentence for people
	Suspend bool   // suspend rather than stop, where the driver can
	// Drain is how long requests and connections may take once the gate has closed while they are
	// in flight and the long connections have been told to end. What is left then is cut off, and
	// the machine is stopped even if it was to be suspended. With 0 the gate only closes when
	// nothing is in flight, and a machine that does not become idle within 30 s is left running.
	Drain time.Duration
}

// ErrBusy is what [Downscaler.Stop] answers when the machine runs on.
var ErrBusy = errors.New("downscale: the machine runs on")

// errEnded is the error of an order that is left when Run ends.
var errEnded = errors.New("downscale: Run has ended before the machine had stopped")

// stopRequest is an order that waits for Run or that Run works on.
type stopRequest struct {
	ctx   context.Context
	app   balance.AppID
	id    balance.MachineID
	epoch uint64
	order Order
	done  chan error // holds one
}

// orders holds those that Run has not taken yet.
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

// end stops accepting orders and returns those that are left.
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
