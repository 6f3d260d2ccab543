package autostart

import (
	"maps"
	"sync"

	"github.com/ebbkit/ebb/autostart/policy"
	"github.com/ebbkit/ebb/balance"
)

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
		if l := q.learner(); l != nil {
			q.minded(func() {
				if h := l.History(); !h.IsZero() {
					all[id.(balance.AppID)] = h
				}
			})
		}
		return true
	})
	return all
}

// Restore takes in what an earlier process has learned, as if it had been seen before all else. Call it once, best before
// Run. Apps that are not known yet get it when they are.
func (a *Autostart) Restore(all map[balance.AppID]policy.History) {
	a.histories.Lock()
	a.histories.of = maps.Clone(all)
	a.histories.Unlock()
	a.queues.Range(func(_, q any) bool { q.(*queue).restore(); return true })
}

// restore gives the policy what has been restored for it. Where there is no policy yet that waits for it.
func (q *queue) restore() {
	p := q.policy.Load()
	if p == nil {
		return
	}
	hs := &q.a.histories
	hs.Lock()
	h, ok := hs.of[q.app]
	delete(hs.of, q.app)
	hs.Unlock()
	if l := q.learner(); ok && l != nil {
		q.minded(func() { l.Restore(h) })
	}
}
