package backhaul

import (
	"github.com/ebbkit/ebb/backhaul/internal/auth"
)

// A request that has to wait for a connection waits a round trip, or two with TLS. So the pool keeps some ready: a peer that
// has just given its last idle connection away, or all but a few streams, gets another one in the background. A peer that is
// not used gets none, and one whose connections fail is not pressed.

// prepare makes spare connections after a request has got its own.
func (pe *peer) prepare(x *exchange) {
	p := pe.pool
	if p.spare <= 0 {
		return
	}
	pe.mu.Lock()
	defer pe.mu.Unlock()
	if pe.ahead || pe.gone || p.closed.Load() || len(pe.idle) >= min(p.spare, p.maxIdle) {
		return
	}
	pe.ahead = true
	limit, dial, epoch := p.limit(x), x.dial, max(x.epoch, pe.epoch)
	go func() {
		for {
			c, err := pe.dial(p.background, dial, limit, epoch)
			if err == nil {
				auth.Announce(c.wire.Conn) //nolint:errcheck // who takes the connection finds out
			}
			if err == nil && !p.keep(c) {
				c.close()
			}
			pe.mu.Lock()
			if err != nil || pe.gone || epoch != pe.epoch || p.closed.Load() || len(pe.idle) >= min(p.spare, p.maxIdle) {
				pe.ahead = false
				pe.mu.Unlock()
				return
			}
			pe.mu.Unlock()
		}
	}()
}

// scarce reports whether all streams are in use and no further connection is under way; m.mu is held.
func (m *mux) scarce() bool {
	if m.pool.spare <= 0 || m.pool.closed.Load() || m.dialing > 0 || len(m.conns) >= maxConns {
		return false
	}
	for _, c := range m.conns {
		if c.streams < c.most {
			return false
		}
	}
	return true
}
