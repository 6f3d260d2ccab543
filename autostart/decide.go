package autostart

import (
	"maps"
	"sync"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// decide asks the policy. One that panics decides nothing, and is asked again.
func (q *queue) decide(now time.Time, in Input) Decision {
	q.mind.Lock()
	in.Answers, q.answers = q.answers, nil
	d, err := contained(func() (Decision, error) { return q.policy.Plan(now, in), nil })
	q.mind.Unlock()
	if err != nil {
		q.a.config.Trace.policyFailed(q.app, err)
		d = Decision{Wait: waitMin}
	}
	d.App = q.app
	return d
}

// command is one that is on its way.
type command struct {
	id     balance.MachineID
	recall bool
}

// claim notes that a command for m is on its way. It is false when that is so already, or when m is another app's.
func (q *queue) claim(m *balance.Machine, recall bool) bool {
	q.mind.Lock()
	defer q.mind.Unlock()
	c := command{m.ID, recall}
	if q.asking[c] || m.App != q.app {
		return false
	}
	q.asking[c] = true
	return true
}

// answer keeps an answer for the next decision.
func (q *queue) answer(a Answer) {
	q.mind.Lock()
	defer q.mind.Unlock()
	delete(q.asking, command{a.Machine.ID, a.Recall})
	q.answers = append(q.answers, a)
}

// pretend answers what is decided in a dry run.
func (q *queue) pretend(d Decision) {
	q.mind.Lock()
	defer q.mind.Unlock()
	now := time.Now()
	for _, m := range d.Recall {
		q.answers = append(q.answers, Answer{At: now, Machine: m, Recall: true})
	}
	for _, m := range d.Start {
		q.answers = append(q.answers, Answer{At: now, Machine: m, Start: balance.StartAccepted})
	}
}

// histories are what has been restored for apps that have no queue yet.
type histories struct {
	sync.Mutex
	of map[balance.AppID]History
}

// Boots returns what this node has learned of an app's cold boots.
func (a *Autostart) Boots(app balance.AppID) (b Boots) {
	q, ok := a.queues.Load(app)
	if !ok {
		return b
	}
	q.(*queue).mind.Lock()
	defer q.(*queue).mind.Unlock()
	if p, ok := q.(*queue).policy.(interface{ Boots() Boots }); ok {
		b = p.Boots()
	}
	return b
}

// Histories returns what this node has learned of all apps' boots, for [Autostart.Restore] after a restart. Apps of which
// nothing is known are left out.
func (a *Autostart) Histories() map[balance.AppID]History {
	a.histories.Lock()
	all := maps.Clone(a.histories.of)
	a.histories.Unlock()
	if all == nil {
		all = map[balance.AppID]History{}
	}
	a.queues.Range(func(id, v any) bool {
		q := v.(*queue)
		q.mind.Lock()
		defer q.mind.Unlock()
		if l, ok := q.policy.(learner); ok {
			if h := l.History(); len(h.Boots) > 0 {
				all[id.(balance.AppID)] = h
			}
		}
		return true
	})
	return all
}

// Restore takes in what an earlier process has learned, as if it had been seen before all else. Call it once, best before
// Run. Apps that are not known yet get it when they are.
func (a *Autostart) Restore(all map[balance.AppID]History) {
	a.histories.Lock()
	a.histories.of = maps.Clone(all)
	a.histories.Unlock()
	a.queues.Range(func(id, v any) bool {
		a.histories.Lock()
		h, ok := a.histories.of[id.(balance.AppID)]
		delete(a.histories.of, id.(balance.AppID))
		a.histories.Unlock()
		if ok {
			q := v.(*queue)
			q.mind.Lock()
			defer q.mind.Unlock()
			if l, ok := q.policy.(learner); ok {
				l.Restore(h)
			}
		}
		return true
	})
}
