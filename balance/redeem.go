package balance

import "slices"

// Grant reserves a slot for a request that is still to come. It counts as in flight from now on: until [Gate.Redeem] or
// [Gate.Revoke] takes the token the machine cannot close under it.
func (g *Gate) Grant() (token uint64, ok bool) {
	if _, b := g.Admit(0, 0); b != Admitted {
		return 0, false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.grants++
	g.tokens = append(g.tokens, g.grants)
	return g.grants, true
}

// Redeem lets the request in that comes with a granted slot, or says why not: the slot was revoked meanwhile, the machine
// is closing, or it is not the epoch that the caller has in mind (0 for any). A request let in leaves with [Gate.Leave].
func (g *Gate) Redeem(token, epoch uint64) (Load, Bounce) {
	if !g.drop(token) {
		return g.Load(), Full
	}
	w := g.word.Load()
	if b := g.refuses(w, epoch); b != Admitted && b != Full {
		g.Leave()
		return g.Load(), b
	}
	return g.load(w), Admitted
}

// Revoke takes a granted slot back, unless it has been redeemed.
func (g *Gate) Revoke(token uint64) bool {
	ok := g.drop(token)
	if ok {
		if g.word.Add(^uint64(0))&inFlightMask == inFlightMask {
			panic("balance: Gate.Revoke without Grant")
		}
		g.moved()
	}
	return ok
}

func (g *Gate) drop(token uint64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.Index(g.tokens, token)
	if i >= 0 {
		g.tokens = slices.Delete(g.tokens, i, i+1)
	}
	return i >= 0
}

// granted reports whether a slot with that token waits to be redeemed.
func (g *Gate) granted(token uint64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Contains(g.tokens, token)
}

// onLeave sets what is called after each request that leaves, with no lock held.
func (g *Gate) onLeave(f func()) { g.left.Store(&f) }
