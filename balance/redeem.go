package balance

import "slices"

// Grant reserves a slot for a request that is still to come. It counts as in flight from now on: until [Gate.Enter],
// [Gate.Redeem] or [Gate.Revoke] takes the token the machine cannot close under it. It does not count as use: a machine
// whose slots are only reserved is as idle as it was, see [Load].
func (g *Gate) Grant() (token uint64, ok bool) {
	for {
		w := g.word.Load()
		if g.refuses(w, 0) != Admitted {
			return 0, false
		}
		if g.word.CompareAndSwap(w, w+1) {
			break
		}
	}
	g.moved()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.grants++; g.grants == 0 { // 0 is no token
		g.grants = 1
	}
	g.tokens = append(g.tokens, g.grants)
	g.held.Store(int32(len(g.tokens)))
	return g.grants, true
}

// Enter lets a request in that may come with a granted slot, or says why not. A token that is still reserved is spent, and
// its slot becomes the request's. With token 0, or one that was spent, revoked, or never given out here, it is [Gate.Admit]:
// the request gets a slot that is really free, or is bounced as full. A request let in leaves with [Gate.Leave].
func (g *Gate) Enter(token, epoch, knownGen uint64) (Load, Bounce) {
	if token != 0 && g.drop(token) {
		return g.redeem(epoch, knownGen)
	}
	return g.Admit(epoch, knownGen)
}

// Redeem lets the request in that comes with a granted slot, or says why not: the slot was revoked meanwhile, the machine
// is closing, or it is not the epoch that the caller means (0 for any). A request let in leaves
// with [Gate.Leave]. Unlike [Gate.Enter] it takes no other slot.
func (g *Gate) Redeem(token, epoch uint64) (Load, Bounce) {
	if !g.drop(token) {
		return g.Load(), Full
	}
	return g.redeem(epoch, 0)
}

// redeem makes a slot whose token has been dropped a request's.
func (g *Gate) redeem(epoch, knownGen uint64) (Load, Bounce) {
	for {
		w := g.word.Load()
		if b := g.refuses(w, epoch); b != Admitted && b != Full {
			g.Leave()
			return g.Load(), b
		}
		next := w | usedBit
		if w&cordonBit != 0 && knownGen >= g.gen.Load() {
			next |= touchedBit
		}
		if g.word.CompareAndSwap(w, next) {
			return g.load(next), Admitted
		}
	}
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
		g.held.Store(int32(len(g.tokens)))
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
