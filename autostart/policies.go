package autostart

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/autostart/policy"
	"github.com/ebbkit/ebb/balance"
)

// command is one that is on its way.
type command struct {
	id     balance.MachineID
	recall bool
}

// learner is a policy that learns how long boots take.
type learner interface {
	History() policy.History
	Restore(policy.History)
}

// histories are what has been restored for apps that have no queue yet.
type histories struct {
	sync.Mutex
	of map[balance.AppID]policy.History
}

// Histories returns what this node has learned of all apps' boots and stops, for
// [Autostart.Restore] after a restart. Apps of which nothing is known are left out.
func (a *Autostart) Histories() map[balance.AppID]policy.History {
	a.histories.Lock()
	all := maps.Clone(a.histories.of)
	a.histories.Unlock()
	if all == nil {
		all = map[balance.AppID]policy.History{}
	}
	a.apps.Range(func(id, v any) bool {
		q := v.(*appRoom)
		if l := q.policy.learner(); l != nil {
			q.policy.use(func() {
				if h := l.History(); !h.IsZero() {
					all[id.(balance.AppID)] = h
				}
			})
		}
		return true
	})
	return all
}

// Restore takes in what an earlier process has learned, as if it had been seen before all else.
// Call it once, best before Run. Apps that are not known yet get it when they are.
func (a *Autostart) Restore(all map[balance.AppID]policy.History) {
	a.histories.Lock()
	a.histories.of = maps.Clone(all)
	a.histories.Unlock()
	a.apps.Range(func(_, q any) bool { q.(*appRoom).policy.restore(); return true })
}

// heldPolicy is the policy of one app.
type heldPolicy struct {
	q      *appRoom
	policy atomic.Pointer[policy.Policy] // nil until Run has made it
	asking sync.Mutex                    // held while the policy is asked anything
}

// make makes the policy if there is none yet. It is for the planning goroutine: no lock is
// held.
func (h *heldPolicy) make() {
	if h.policy.Load() != nil {
		return
	}
	p := h.q.a.config.Policy(h.q.app)
	if p == nil {
		p = &policy.Planner{}
	}
	h.set(p)
	h.restore() // what has been restored is looked for when there is a policy for it: see Restore
}

func (h *heldPolicy) set(p policy.Policy) {
	p = policy.Bounded(p)
	h.policy.Store(&p)
}

// learner returns the policy if it learns, else nil. Another's is looked for behind its bounds, see
// [policy.Bounded].
func (h *heldPolicy) learner() learner {
	held := h.policy.Load()
	if held == nil {
		return nil
	}
	p := *held
	if b, ok := p.(interface{ Unwrap() policy.Policy }); ok {
		p = b.Unwrap()
	}
	l, _ := p.(learner)
	return l
}

// ask asks the policy. It is called here and now: that it returns at once and does not panic is its
// contract.
func (h *heldPolicy) ask(now time.Time, in policy.Input) policy.Decision {
	h.make()
	h.asking.Lock()
	defer h.asking.Unlock()
	in.Answers = h.q.commands.take()
	return (*h.policy.Load()).Plan(now, in)
}

// use does something with the policy while it is not being asked.
func (h *heldPolicy) use(do func()) {
	h.asking.Lock()
	defer h.asking.Unlock()
	do()
}

// restore gives the policy what has been restored for it. Where there is no policy yet that waits
// for it.
func (h *heldPolicy) restore() {
	p := h.policy.Load()
	if p == nil {
		return
	}
	hs := &h.q.a.histories
	hs.Lock()
	learned, ok := hs.of[h.q.app]
	delete(hs.of, h.q.app)
	hs.Unlock()
	if l := h.learner(); ok && l != nil {
		h.use(func() { l.Restore(learned) })
	}
}

// commands are what the owners of one app's machines have been asked for, and what came of that.
type commands struct {
	app balance.AppID

	mu      sync.Mutex       // answers come from other goroutines
	answers []policy.Answer  // since the last decision
	asking  map[command]bool // nil while there is none
}

// claim notes that a command for m is on its way. It is false when that is so already, or when m is
// another app's.
func (c *commands) claim(m *balance.Machine, recall bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	one := command{m.ID, recall}
	if c.asking[one] || m.App != c.app {
		return false
	}
	if c.asking == nil {
		c.asking = map[command]bool{}
	}
	c.asking[one] = true
	return true
}

// answer keeps an answer for the next decision.
func (c *commands) answer(a policy.Answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if delete(c.asking, command{a.Machine.ID, a.Recall}); len(c.asking) == 0 {
		c.asking = nil
	}
	c.answers = append(c.answers, a)
}

// pretend answers what is decided in a dry run.
func (c *commands) pretend(d policy.Decision) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for _, m := range d.Recall {
		c.answers = append(c.answers, policy.Answer{At: now, Machine: m, Recall: true})
	}
	for _, m := range d.Start {
		c.answers = append(c.answers, policy.Answer{At: now, Machine: m, Start: balance.StartAccepted})
	}
}

// take returns the answers since the last call.
func (c *commands) take() []policy.Answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	as := c.answers
	c.answers = nil
	return as
}
