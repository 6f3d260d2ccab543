package autostart

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/contain"
	"github.com/ebbkit/ebb/autostart/policy"
	"github.com/ebbkit/ebb/balance"
)

// brokenPolicy stands in for one that could not be made.
type brokenPolicy struct{ err error }

// Plan implements [policy.Policy].
func (b brokenPolicy) Plan(time.Time, policy.Input) policy.Decision { panic(b.err) }

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
// [Autostart.Restore] after a restart. Apps of which nothing is known are left out, as are those
// whose policy is not ours and does not come back from a question.
func (a *Autostart) Histories() map[balance.AppID]policy.History {
	a.histories.Lock()
	all := maps.Clone(a.histories.of)
	a.histories.Unlock()
	if all == nil {
		all = map[balance.AppID]policy.History{}
	}
	a.queues.Range(func(id, v any) bool {
		q := v.(*queue)
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
	a.queues.Range(func(_, q any) bool { q.(*queue).policy.restore(); return true })
}

// heldPolicy is the policy of one app.
type heldPolicy struct {
	q      *queue
	policy atomic.Pointer[policy.Policy] // nil until Run has made it
	ours   bool                          // it answers at once
	// busy holds one while the policy is asked anything. It is a channel and no mutex because it is
	// waited for with a limit: a policy may never come back.
	busy chan struct{}
}

// make makes the policy if there is none yet. It is for the planning goroutine: no lock is
// held.
func (h *heldPolicy) make() {
	if h.policy.Load() != nil {
		return
	}
	p, err := contain.Call(func() (policy.Policy, error) { return h.q.a.config.Policy(h.q.app), nil })
	switch {
	case err != nil:
		p = brokenPolicy{err} // which is told when it is asked
	case p == nil:
		p = &policy.Planner{Hedge: h.q.a.config.Hedge}
	}
	h.set(p)
	h.restore() // what has been restored is looked for when there is a policy for it: see Restore
}

func (h *heldPolicy) set(p policy.Policy) {
	p = policy.Bounded(p)
	_, others := p.(wrapped)
	h.ours = !others
	h.policy.Store(&p)
}

// wrapped is a policy of somebody else's in its bounds, see [policy.Bounded].
type wrapped interface{ Unwrap() policy.Policy }

// unbounded returns a policy as it was given.
func unbounded(p policy.Policy) policy.Policy {
	if b, ok := p.(wrapped); ok {
		return b.Unwrap()
	}
	return p
}

// learner returns the policy if it learns, else nil.
func (h *heldPolicy) learner() learner {
	if p := h.policy.Load(); p != nil {
		l, _ := unbounded(*p).(learner)
		return l
	}
	return nil
}

// ask asks the policy. h.busy keeps others from it meanwhile.
func (h *heldPolicy) ask(now time.Time, in policy.Input) (policy.Decision, error) {
	h.busy <- struct{}{}
	defer func() { <-h.busy }()
	in.Answers = h.q.commands.take()
	p := *h.policy.Load()
	return contain.Call(func() (policy.Decision, error) { return p.Plan(now, in), nil })
}

// use does something with the policy while it is not being asked; not at all when it does
// not come back.
func (h *heldPolicy) use(do func()) {
	patience := time.NewTimer(policyPatience)
	defer patience.Stop()
	select {
	case h.busy <- struct{}{}:
	case <-patience.C:
		return
	}
	defer func() { <-h.busy }()
	if _, err := contain.Call(func() (struct{}, error) { do(); return struct{}{}, nil }); err != nil {
		h.q.a.config.Trace.policyFailed(h.q.app, err)
	}
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
