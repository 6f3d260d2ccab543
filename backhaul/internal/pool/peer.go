package pool

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/auth"
)

// peer holds the pool's HTTP/1.1 connections to a peer.
type peer struct {
	Pool *Pool
	name PeerName

	Mu    sync.Mutex
	Epoch uint64
	Idle  []*Conn // the last used one last
	timer *time.Timer
	gone  bool    // removed from the pool: look it up again
	ahead bool    // a spare connection is being made
	ended []*Conn // to be closed when pe.Mu is released
}

// unlock releases pe.Mu, and then closes the connections that have ended. They belong to the
// caller's dialer, so no lock is held.
func (pe *peer) unlock() {
	ended := pe.ended
	pe.ended = nil
	pe.Mu.Unlock()
	for _, c := range ended {
		c.Close()
	}
}

// dial makes an HTTP/1.1 connection.
func (pe *peer) dial(
	ctx context.Context, dial Dialer, limit time.Duration, epoch uint64,
) (*Conn, error) {
	d := &dialing{pool: pe.Pool, peer: pe.name.ID, dial: dial}
	ctx = context.WithValue(ctx, dialingKey{}, d)
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	cc, err := pe.Pool.transport.NewClientConn(ctx, "http", "peer:80")
	if err != nil {
		return nil, err
	}
	return &Conn{HTTP: cc, Wire: d.wire, Peer: pe, epoch: epoch}, nil
}

// Take returns the last used connection that is still alive, or nil.
func (pe *peer) Take(epoch uint64) *Conn {
	for {
		c := pe.pop(epoch)
		if c == nil || c.Free() && c.Wire.still() {
			return c
		}
		c.Close() // the peer closed it while it was idle, or sent bytes unasked
	}
}

// pop takes out the last used connection. An owner's row may still name its earlier incarnation
// when another row has named the next; the process that listens there knows which machines it owns.
// A machine's earlier epoch, in contrast, is over.
func (pe *peer) pop(epoch uint64) *Conn {
	pe.Mu.Lock()
	defer pe.unlock()
	pe.renew(epoch)
	if len(pe.Idle) == 0 || epoch < pe.Epoch && pe.Pool.Near {
		return nil
	}
	last := len(pe.Idle) - 1
	c := pe.Idle[last]
	pe.Idle[last] = nil
	pe.Idle = pe.Idle[:last]
	return c
}

// newest returns the epoch that is dialled now, which may be later than the request's.
func (pe *peer) newest(epoch uint64) uint64 {
	pe.Mu.Lock()
	defer pe.Mu.Unlock()
	return max(epoch, pe.Epoch)
}

// renew drops the connections of an older epoch; pe.Mu is held.
func (pe *peer) renew(epoch uint64) {
	if epoch > pe.Epoch {
		pe.Epoch = epoch
		pe.drop(len(pe.Idle))
	}
}

// drop takes out the n oldest idle connections. pe.Mu is held; they are closed when it is released.
func (pe *peer) drop(n int) {
	pe.ended = append(pe.ended, pe.Idle[:n]...)
	pe.Idle = slices.Delete(pe.Idle, 0, n)
}

// expire closes connections that have been idle too long, and removes a peer without connections.
func (pe *peer) expire() {
	pe.Mu.Lock()
	defer pe.unlock()
	now := time.Now()
	n := 0
	for n < len(pe.Idle) && now.Sub(pe.Idle[n].idleAt) >= pe.Pool.IdleTimeout {
		n++
	}
	pe.drop(n)
	pe.timer = nil
	if len(pe.Idle) > 0 {
		pe.timer = time.AfterFunc(pe.Idle[0].idleAt.Add(pe.Pool.IdleTimeout).Sub(now), pe.expire)
		return
	}
	pe.gone = true
	pe.Pool.Peers.CompareAndDelete(pe.name, pe)
}

// prepare makes spare connections after a request has got its own. A request without a free
// connection waits one round trip, or two with TLS. So when a request takes a peer's last idle
// connection, or all but a few streams, another connection is made in the background. A peer that
// is not used gets none, and one whose connections fail is not dialled again and again.
func (pe *peer) prepare(x *Exchange) {
	p := pe.Pool
	if p.Spare <= 0 {
		return
	}
	pe.Mu.Lock()
	defer pe.Mu.Unlock()
	if pe.ahead || pe.gone || p.closed.Load() || len(pe.Idle) >= min(p.Spare, p.MaxIdle) {
		return
	}
	pe.ahead = true
	limit, dial, epoch := p.Limit(x), x.Dial, max(x.Epoch, pe.Epoch)
	go func() {
		for {
			c, err := pe.dial(p.background, dial, limit, epoch)
			if err == nil {
				auth.Announce(c.Wire.Conn) //nolint:errcheck // the holder of the connection sees the error
			}
			if err == nil && !p.keep(c) {
				c.Close()
			}
			pe.Mu.Lock()
			if err != nil || pe.gone || epoch != pe.Epoch || p.closed.Load() ||
				len(pe.Idle) >= min(p.Spare, p.MaxIdle) {
				pe.ahead = false
				pe.Mu.Unlock()
				return
			}
			pe.Mu.Unlock()
		}
	}()
}
