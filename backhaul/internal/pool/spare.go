package pool

import (
	"github.com/ebbkit/ebb/backhaul/internal/auth"
)

// A request that has to wait for a connection waits a round trip, or two with TLS. So the pool
// keeps some ready: a peer that has just given its last idle connection away, or all but a few
// streams, gets another one in the background. A peer that is not used gets none, and one whose
// connections fail is not pressed.

// prepare makes spare connections after a request has got its own.
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
				auth.Announce(c.Wire.Conn) //nolint:errcheck // who takes the connection finds out
			}
			if err == nil && !p.keep(c) {
				c.Close()
			}
			pe.Mu.Lock()
			if err != nil || pe.gone || epoch != pe.Epoch || p.closed.Load() || len(pe.Idle) >= min(p.Spare, p.MaxIdle) {
				pe.ahead = false
				pe.Mu.Unlock()
				return
			}
			pe.Mu.Unlock()
		}
	}()
}

// scarce reports whether all streams are in use and no further connection is under way; m.mu is
// held.
func (m *mux) scarce() bool {
	if m.pool.Spare <= 0 || m.pool.closed.Load() || m.dialing > 0 || len(m.Conns) >= maxConns {
		return false
	}
	for _, c := range m.Conns {
		if c.Streams < c.most {
			return false
		}
	}
	return true
}
