package machine

import (
	"context"
	"errors"
	"sync"

	"github.com/ebbkit/ebb/balance"
)

// Readiness tells when a machine is ready, where something reports that and no checks are needed:
// an agent in the machine, or whatever runs it. [Push] is one.
type Readiness interface {
	// Await returns nil when the start of m.Epoch is ready, and an error when it never will be. m.Addr
	// is set. It is called once for each start, from several goroutines, and heeds ctx. An error
	// matching [errors.ErrUnsupported] means that nothing reports on this machine; then it is checked.
	Await(ctx context.Context, m balance.Machine) error
}

// Push is a [Readiness] that is told from outside. The zero value is ready for use. All methods are
// safe for concurrent use.
type Push struct {
	mu        sync.Mutex
	announced map[balance.MachineKey]*announcement
}

// announcement is the report about one start, or the wait for it.
type announcement struct {
	epoch uint64
	done  chan struct{} // closed when the report has come
	err   error
}

var errSilent = errors.New("it is not ready and does not say why")

// Ready says that a machine is ready, in the start of that epoch. It may come before anybody waits
// for it. Only the first report about a start counts, and reports for an older epoch are ignored.
func (p *Push) Ready(app balance.AppID, id balance.MachineID, epoch uint64) {
	p.announce(balance.MachineKey{App: app, ID: id}, epoch, nil)
}

// Failed says that a machine will never be ready in the start of that epoch, and why. That is
// faster than waiting for Config.BootCap.
func (p *Push) Failed(app balance.AppID, id balance.MachineID, epoch uint64, err error) {
	if err == nil {
		err = errSilent
	}
	p.announce(balance.MachineKey{App: app, ID: id}, epoch, err)
}

func (p *Push) announce(k balance.MachineKey, epoch uint64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.announcement(k, epoch)
	if w == nil {
		return
	}
	select {
	case <-w.done:
	default:
		w.err = err
		close(w.done)
	}
}

// announcement returns the announcement of a start, or nil when that start is over. One
// announcement is kept for each machine.
func (p *Push) announcement(k balance.MachineKey, epoch uint64) *announcement {
	w := p.announced[k]
	switch {
	case w != nil && w.epoch == epoch:
		return w
	case w != nil && w.epoch > epoch:
		return nil
	}
	w = &announcement{epoch: epoch, done: make(chan struct{})}
	if p.announced == nil {
		p.announced = map[balance.MachineKey]*announcement{}
	}
	p.announced[k] = w
	return w
}

// Await implements [Readiness].
func (p *Push) Await(ctx context.Context, m balance.Machine) error {
	p.mu.Lock()
	w := p.announcement(m.Key(), m.Epoch)
	p.mu.Unlock()
	if w == nil {
		return errors.New("it has been started again")
	}
	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Forget drops the announcement of a machine that has been removed.
func (p *Push) Forget(app balance.AppID, id balance.MachineID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.announced, balance.MachineKey{App: app, ID: id})
}
