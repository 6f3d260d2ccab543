// Package deal decides which node gets the next free slot of an app's machines, and which granted
// slots go back to the owner. It is pure: time is an argument, and gates are an interface.
package deal

import (
	"slices"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// Gate is what Slots needs of a machine's gate; [*balance.Gate] is one.
type Gate interface {
	Load() balance.Load
	Grant() (token uint64, ok bool)
	Revoke(token uint64) bool
	Holds(token uint64) bool
}

// Machine is a machine of the owner that accepts requests and whose slots are granted.
type Machine struct {
	ID   balance.MachineID
	Gate Gate
	Tier balance.Tier
}

// Notice is a message to a node: a grant, or the end of one.
type Notice struct {
	Node  balance.NodeID
	Grant balance.Grant
}

// lendFor is how long after an app's last use slots are lent to nodes where nothing waits. A lent
// slot counts as in flight, and an unused app has to scale to zero.
const lendFor = 10 * time.Second

// AskFor is how long a node's number of parked requests stays valid.
const AskFor = 5 * time.Second

// Slots are the granted slots of one app's machines on one owner. They are not safe for concurrent
// use.
type Slots struct {
	app   balance.AppID
	lasts time.Duration // how long a grant may be used
	turns turns
	out   []grant
	used  time.Time // when a request waited or a slot was used last
	gave  time.Time // when a slot was given last
}

// grant is a slot on its way to a node, or waiting there to be used.
type grant struct {
	node    balance.NodeID
	machine balance.MachineID
	gate    Gate
	token   uint64
	at      time.Time
	lent    bool // given to a node at which nothing waited
}

// New returns the slots of an app whose grants may be used for that long.
func New(app balance.AppID, lasts time.Duration) *Slots { return &Slots{app: app, lasts: lasts} }

// Ask records how many requests wait at a node. A negative number says that the node does not want
// a spare slot either.
func (s *Slots) Ask(now time.Time, node balance.NodeID, parked int) {
	if parked > 0 {
		s.used = now
	}
	s.turns.ask(node, parked, now.Add(AskFor).UnixNano())
}

// Back takes back a slot that its node could not use. It does nothing if the slot was used or taken
// back meanwhile.
func (s *Slots) Back(node balance.NodeID, back balance.Grant) {
	for i, x := range s.out {
		if x.token == back.Token && x.machine == back.Machine && x.node == node &&
			x.gate.Revoke(x.token) {
			s.turns.hold(node, -1)
			s.out = slices.Delete(s.out, i, i+1)
			return
		}
	}
}

// Gave returns when a slot was given last.
func (s *Slots) Gave() time.Time { return s.gave }

// Forgotten reports whether nobody has asked for long and no slot is out.
func (s *Slots) Forgotten() bool { return len(s.turns.nodes) == 0 && len(s.out) == 0 }

// Lent reports whether a slot of the gate is lent to a node that asked for none.
func (s *Slots) Lent(g Gate) bool {
	return slices.ContainsFunc(s.out, func(x grant) bool {
		return x.gate == g && x.lent && g.Holds(x.token)
	})
}

// Deal takes slots back and hands out free ones, and returns what to tell the nodes. machines are
// those that can accept a request now.
func (s *Slots) Deal(now time.Time, machines []Machine) (notices []Notice) {
	for _, x := range s.settle(now) {
		notices = append(notices, s.revoked(x))
	}
	return s.hand(now, machines, notices)
}

// settle drops the grants that were used, and takes back those that were not used in time. It
// returns those taken back early: of a machine that does not run, and loans of one that is about to
// stop.
func (s *Slots) settle(now time.Time) (early []grant) {
	kept := s.out[:0]
	for _, x := range s.out {
		l := x.gate.Load()
		isEarly := l.State != balance.StateStarted || x.lent && l.Cordon == balance.CordonSoft
		back := (isEarly || now.Sub(x.at) > 2*s.lasts) && x.gate.Revoke(x.token)
		switch {
		case back && isEarly:
			early = append(early, x)
		case back:
		case x.gate.Holds(x.token):
			kept = append(kept, x)
			continue
		default:
			s.used = now
		}
		s.turns.hold(x.node, -1)
	}
	clear(s.out[len(kept):])
	s.out = kept
	s.turns.expire(now.UnixNano())
	return early
}

// hand gives free slots to nodes, those of the best machines first. It takes slots back from nodes
// that do not need them only when none is free and somebody waits.
func (s *Slots) hand(now time.Time, machines []Machine, notices []Notice) []Notice {
	for tier := range balance.TierNone {
		for _, m := range machines {
			if m.Tier == tier {
				notices = s.handFree(now, m, notices)
			}
		}
	}
	for _, m := range machines {
		for {
			node, lacks, ok := s.turns.next(now.UnixNano())
			if !ok || !lacks {
				return notices
			}
			from, ok := s.takeBack(m.Gate, now.Add(-s.lasts/10))
			if !ok {
				break
			}
			notices = append(notices, s.revoked(from))
			if token, ok := m.Gate.Grant(); ok {
				notices = append(notices, s.give(now, m, node, token, false))
			}
		}
	}
	return notices
}

// lends reports whether free slots of a machine are lent to nodes where nothing waits: only while
// the app is used and the machine is not to be emptied.
func (s *Slots) lends(now time.Time, m Machine) bool {
	return now.Sub(s.used) <= lendFor && m.Tier == balance.TierReady &&
		m.Gate.Load().Cordon == balance.CordonNone
}

// handFree gives a machine's free slots to nodes.
func (s *Slots) handFree(now time.Time, m Machine, notices []Notice) []Notice {
	for {
		node, lacks, ok := s.turns.next(now.UnixNano())
		if !ok || !lacks && !s.lends(now, m) {
			return notices
		}
		token, ok := m.Gate.Grant()
		if !ok {
			return notices
		}
		notices = append(notices, s.give(now, m, node, token, !lacks))
	}
}

// give records a grant.
func (s *Slots) give(
	now time.Time, m Machine, node balance.NodeID, token uint64, lent bool,
) Notice {
	s.gave = now
	s.turns.hold(node, 1)
	s.out = append(s.out, grant{node, m.ID, m.Gate, token, now, lent})
	return Notice{node, balance.Grant{
		App: s.app, Machine: m.ID, Epoch: m.Gate.Load().Epoch, Token: token, For: s.lasts,
	}}
}

func (s *Slots) revoked(x grant) Notice {
	return Notice{x.node, balance.Grant{
		App: s.app, Machine: x.machine, Token: x.token, Revoked: true,
	}}
}

// takeBack revokes a slot of the gate that a node does not need: one that was lent, or one asked
// for that should have been used by now. If the node uses it before it hears of that, the request
// is bounced.
func (s *Slots) takeBack(g Gate, before time.Time) (grant, bool) {
	for i, x := range s.out {
		if x.gate == g && (x.lent || x.at.Before(before)) && s.turns.idle(x.node) && g.Revoke(x.token) {
			s.turns.hold(x.node, -1)
			s.out = slices.Delete(s.out, i, i+1)
			return x, true
		}
	}
	return grant{}, false
}
