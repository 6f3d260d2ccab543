package balance

import (
	"cmp"
	"iter"
	"slices"
)

// Take takes in a slot that a machine's owner has granted to this node, or taken back; the next pick may use it. It reports false when
// the machine is not known. Grants may come late, twice and out of order: a pick uses each once, and one that was taken back
// not at all. From an app's first grant on, this node sends its machines that take 1 to 3 requests at a time
// nothing without one, until 5 s have passed without any: then it guesses again. So either all owners of an app's machines
// grant their slots, or none.
func (b *Balancer) Take(g Grant) bool {
	a, ok := (*b.fleet.apps.Load())[g.App]
	if !ok {
		return false
	}
	c := a.cells.find(g.Machine)
	if c == nil {
		return false
	}
	held := c.remember().granted()
	if g.Revoked {
		held.drop(c, g.Token)
		return true
	}
	now := b.fleet.tick.Load()
	if a.granted.Swap(now) == 0 {
		for m := range a.snap.Load().rows() {
			m.cell.underGrants(m.shared.limits)
		}
	}
	held.put(c, ticket{g.Token, now + max(1, int64(g.For/tickEvery))})
	b.signal(g.App)
	return true
}

// Grant returns the token of the slot that the pick uses, for [Gate.Enter]; ok is false when the machine's owner does not
// grant. Ask for it when the request is about to leave: a reservation that is released without having been asked leaves its
// slot to this node's next request.
func (r *Reservation) Grant() (token uint64, ok bool) {
	r.shown = true
	return r.ticket.token, r.ticket.token != 0
}

// Undelivered says that the token which Grant returned has not left this process: the machine's owner could not be reached.
// Release then hands the slot to [Config.GiveBack] rather than leave it to expire.
func (r *Reservation) Undelivered() { r.lost = true }

// giveBack does what is right with the granted slot of a reservation that is being released.
func (r *Reservation) giveBack() {
	switch {
	case !r.shown:
		r.row.cell.remember().granted().putBack(r.row.cell, r.ticket)
	case r.lost && r.b.giveBack != nil:
		r.b.giveBack(r.row.shared.owner,
			Grant{App: r.row.shared.app, Machine: r.row.id, Token: r.ticket.token})
	}
}

// Asks says whom to tell about an app's parked requests, for [Granter.Ask]: each owner of machines that take one to three
// requests at a time, with its part of them. The parts add up to parked, so that no two owners reserve slots for the same
// request. The nearest regions come first: they are told of as many as it pays to wait there for, by the
// round trips, the slots and how long requests stay, and farther ones of the rest; a negative part says that the owner need not keep a slot at hand
// for this node either. Inside a region parts go by the slots of the machines that run or start, and each call leaves what
// does not come out even to another owner. It yields nothing for an app that has no such machines. Call it when the number
// has changed, and every second or less while this node lives.
func (b *Balancer) Asks(app AppID, parked int) iter.Seq2[NodeID, int] {
	return func(yield func(NodeID, int) bool) {
		ab, ok := (*b.apps.Load())[app]
		if !ok {
			return
		}
		owners := ab.view.Load().granting()
		split(max(parked, 0), owners, ab.asks.Add(1)+hash2(string(b.fleet.node), string(app)))
		for i := range owners {
			if !yield(owners[i].node, owners[i].part) {
				return
			}
		}
	}
}

// granting returns the owners of machines that take a few requests at a time: the near ones first, then by name. A region's
// owners are as near as the region is.
func (v *View) granting() (owners []asked) {
	for i := range v.order {
		near, share := v.Near(i), float64(v.order[i].share)/shareAll
		for _, p := range v.order[i].rows.byID {
			m := v.order[i].rows.rows[p]
			l := m.shared.limits
			if !l.granted() {
				continue
			}
			at := slices.IndexFunc(owners, func(o asked) bool { return o.node == m.shared.owner })
			if at < 0 {
				at = len(owners)
				owners = append(
					owners,
					asked{
						node: m.shared.owner, near: near, share: share, rtt: v.order[i].rtt,
						stay: v.order[i].stats.Stay,
					},
				)
			}
			if m.state == Started || m.state == Starting {
				owners[at].slots += l.Hard
			}
		}
	}
	slices.SortFunc(owners, func(x, y asked) int { return cmp.Or(cmp.Compare(x.near, y.near), cmp.Compare(x.node, y.node)) })
	return owners
}

// lapse is how many ticks after the last grant a node takes the owner for one that does not grant.
const lapse = 50

// underGrants has the machine wait for grants if it takes a few requests at a time.
func (c *cell) underGrants(l Limits) {
	if !l.granted() {
		return
	}
	c.remember().granted().wait(c)
}
