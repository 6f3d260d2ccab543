package autostart

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/autostart/policy"
	"github.com/ebbkit/ebb/balance"
)

// command is a start or a recall that its owner has not answered yet.
type command struct {
	id     balance.MachineID
	recall bool
}

// learner is a policy that learns how long boots take.
type learner interface {
	History() policy.History
	Restore(policy.History)
}

// histories holds what has been restored and has not been taken in by a policy yet.
type histories struct {
	mu sync.Mutex
	of map[balance.AppID]*policy.History
}

// put replaces all histories.
func (h *histories) put(all map[balance.AppID]policy.History) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.of = make(map[balance.AppID]*policy.History, len(all))
	for app, learned := range all {
		h.of[app] = &learned
	}
}

// get returns an app's history, or nil.
func (h *histories) get(app balance.AppID) *policy.History {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.of[app]
}

// all returns a copy of all histories.
func (h *histories) all() map[balance.AppID]policy.History {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make(map[balance.AppID]policy.History, len(h.of))
	for app, learned := range h.of {
		all[app] = *learned
	}
	return all
}

// drop removes an app's history, unless it has been replaced since it was taken.
func (h *histories) drop(app balance.AppID, taken *policy.History) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.of[app] == taken {
		delete(h.of, app)
	}
}

// Histories returns what this node has learned of all apps' boots and stops, for
// [Autostart.Restore] after a restart. Apps of which nothing is known are left out.
func (a *Autostart) Histories() map[balance.AppID]policy.History {
	all := a.histories.all() // before learned, which ask stores before it drops this
	a.apps.Range(func(app, q any) bool {
		if h := q.(*appRoom).policy.learned.Load(); h != nil && !h.IsZero() {
			all[app.(balance.AppID)] = *h
		}
		return true
	})
	return all
}

// Restore takes in what an earlier process has learned, as if it had been seen first. Call it once,
// best before Run. An app's policy gets it before the app's next decision.
func (a *Autostart) Restore(all map[balance.AppID]policy.History) { a.histories.put(all) }

// heldPolicy is the policy of one app. Only the planning goroutine uses it; other goroutines read
// learned only.
type heldPolicy struct {
	q       *appRoom
	policy  policy.Policy                  // nil until the first decision
	learner learner                        // the policy if it learns, else nil
	learned atomic.Pointer[policy.History] // as of the last decision
}

// make makes the policy if there is none yet.
func (h *heldPolicy) make() {
	if h.policy != nil {
		return
	}
	var p policy.Policy
	if f := h.q.a.config.Policy; f != nil {
		p = f(h.q.app)
	}
	if p == nil {
		p = &policy.Planner{}
	}
	h.learner, _ = p.(learner)
	h.policy = policy.Bounded(p)
}

// ask calls the policy synchronously, with no lock held. By its contract the policy returns at once
// and does not panic.
func (h *heldPolicy) ask(now time.Time, in policy.Input) policy.Decision {
	h.make()
	restored := h.q.a.histories.get(h.q.app)
	if restored != nil && h.learner != nil {
		h.learner.Restore(*restored)
	}
	in.Answers = h.q.commands.take()
	d := h.policy.Plan(now, in)
	if h.learner != nil {
		learned := h.learner.History()
		h.learned.Store(&learned)
	}
	if restored != nil {
		h.q.a.histories.drop(h.q.app, restored)
	}
	return d
}

// commands are the starts and recalls that the owners of one app's machines have been asked for,
// and their results.
type commands struct {
	app balance.AppID

	mu      sync.Mutex       // answers come from other goroutines
	answers []policy.Answer  // since the last decision
	asking  map[command]bool // nil while there is none
}

// claim records that a command for m is sent to its owner. It reports false, and records nothing,
// if such a command is still unanswered or if m belongs to another app.
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

// pretend answers a decision's commands in a dry run, as their owners would.
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
