package balance

import "cmp"

// Strategy chooses the machine for a request.
type Strategy interface {
	// Pick chooses one machine of v that is usable for r. It neither blocks nor allocates and is safe for concurrent use.
	// r.Rand is the only chance involved: an equal view and an equal request give an equal answer. ok is false when no
	// machine is usable. A soft-cordoned machine is picked only when no plain one is usable, and so on down the tiers.
	Pick(v *View, r Request) (s Slot, ok bool)
}

// StrategyFunc makes a function a [Strategy].
type StrategyFunc func(v *View, r Request) (Slot, bool)

// Pick calls f.
func (f StrategyFunc) Pick(v *View, r Request) (Slot, bool) { return f(v, r) }

// lookAll is how many machines of a region are all looked at; beyond it some are drawn. Looking at 64 costs less than a
// system call and finds the least; see the table of rules in the package comment.
const lookAll = 64

// best keeps the better of the candidates shown to it. compare is the order that the strategy wants.
type best struct {
	slot  Slot
	c     Candidate
	found bool
}

// byLoad prefers the least use, then the one not picked for longest, then what this node's salt says. An order of IDs
// would be shared by all nodes and send them all to the same machine; IDs come last of all.
func byLoad(a, b *Candidate) int {
	return cmp.Or(cmp.Compare(a.Use(), b.Use()), cmp.Compare(a.Picked, b.Picked), cmp.Compare(a.Salt, b.Salt), cmp.Compare(a.ID, b.ID))
}

// look shows b the usable machines of a tier in region i: all of them up to lookAll, else n drawn without replacement.
// With a key the machine with the highest hash for it wins while below its soft limit.
func (b *best) look(v *View, r *Request, i int, t Tier, n int) {
	have := v.Len(i, t)
	if have <= lookAll || r.Key != "" {
		for j := range have {
			b.show(v, r, v.Slot(i, t, j))
		}
		return
	}
	// Distinct draws: a start and a stride that is coprime with the number of machines.
	at, stride := int(r.Rand%uint64(have)), int(mix(r.Rand, uint64(i))%uint64(have))|1
	for gcd(stride, have) != 1 {
		stride += 2
	}
	for range n {
		b.show(v, r, v.Slot(i, t, at))
		at = (at + stride) % have
	}
}

func (b *best) show(v *View, r *Request, s Slot) {
	var c Candidate
	if !v.Usable(s, r, &c) {
		return
	}
	if !b.found || prefer(r, &c, &b.c) {
		b.slot, b.c, b.found = s, c, true
	}
}

func prefer(r *Request, a, b *Candidate) bool {
	if r.Key != "" {
		if a.Busy() != b.Busy() {
			return b.Busy() // affinity yields to room
		}
		if !a.Busy() {
			return cmp.Or(cmp.Compare(affinity(r.Key, a), affinity(r.Key, b)), cmp.Compare(a.ID, b.ID)) > 0
		}
	}
	return byLoad(a, b) < 0
}

// affinity is rendezvous hashing over the key and the machine's canonical rank.
func affinity(key string, c *Candidate) uint64 { return mix(hash2("", key), c.Rank) }

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
