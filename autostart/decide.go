package autostart

import (
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/boots"
	"github.com/ebbkit/ebb/autostart/internal/contain"
	"github.com/ebbkit/ebb/autostart/policy"
	"github.com/ebbkit/ebb/balance"
)

const (
	// policyWait is how long all other apps wait for a policy that is not ours: most answer in less,
	// and then a decision does not wait for its turn.
	policyWait = 5 * time.Millisecond
	// policyPatience is how long a policy may panic, or say nothing, until requests that only it could
	// help are sent away.
	policyPatience = time.Second
)

var errPolicySilent = fmt.Errorf("it has not come back for %v", policyPatience)

// question is a question to a policy that is under way.
type question struct {
	since time.Time
	in    input
	off   bool         // autostart is off
	back  chan verdict // receives once; nil when the policy is ours
	told  bool         // that it takes too long
	late  atomic.Bool  // nobody waits for the answer, so that it has to announce itself
}

type verdict struct {
	d   policy.Decision
	err error
}

// decide asks the policy; ok is false when the answer is still to come. Ours are asked here and
// now. Another may do anything: it has a goroutine of its own, and whatever it does stops the
// planning of its own app only.
func (q *queue) decide(now time.Time, t *question, in policy.Input) (d policy.Decision, ok bool) {
	if q.makePolicy(); q.ours {
		d, err := q.ask(now, in)
		return q.conclude(now, t, verdict{d, err}), true
	}
	t.back = make(chan verdict, 1)
	q.question = t
	go func() {
		d, err := q.ask(now, in)
		t.back <- verdict{d, err}
		if t.late.Load() {
			q.a.poke(q)
		}
	}()
	patience := time.NewTimer(policyWait)
	defer patience.Stop()
	select {
	case v := <-t.back:
		return q.conclude(now, t, v), true
	case <-patience.C:
		t.late.Store(true)
		return q.poll(now) // it may have come before that
	}
}

// poll looks whether a question that is under way has been answered.
func (q *queue) poll(now time.Time) (d policy.Decision, ok bool) {
	t := q.question
	select {
	case v := <-t.back:
		return q.conclude(now, t, v), true
	default:
	}
	if now.Sub(t.since) < policyPatience {
		return policy.Decision{}, false
	}
	if !t.told {
		t.told = true
		q.a.config.Trace.policyFailed(q.app, errPolicySilent)
	}
	d = q.fallback("its policy does not answer")
	q.forecast(now, t, d)
	return d, true
}

// ask asks the policy. q.policyBusy keeps others from it meanwhile.
func (q *queue) ask(now time.Time, in policy.Input) (policy.Decision, error) {
	q.policyBusy <- struct{}{}
	defer func() { <-q.policyBusy }()
	q.answersMu.Lock()
	in.Answers, q.answers = q.answers, nil
	q.answersMu.Unlock()
	p := *q.policy.Load()
	return contain.Call(func() (policy.Decision, error) { return p.Plan(now, in), nil })
}

// conclude takes in what the policy said. One that panics decides nothing, and is asked again.
func (q *queue) conclude(now time.Time, t *question, v verdict) policy.Decision {
	q.question = nil
	d := v.d
	switch {
	case v.err == nil:
		q.failing = time.Time{}
	default:
		q.a.config.Trace.policyFailed(q.app, v.err)
		if q.failing.IsZero() {
			q.failing = now
		}
		if d = (policy.Decision{Wait: boots.WaitMin}); now.Sub(q.failing) >= policyPatience {
			d = q.fallback("its policy fails")
		}
	}
	d.App = q.app
	q.forecast(now, t, d)
	return d
}

// fallback is the decision for an app whose policy is of no help: what nothing serves is sent away,
// and told why. What runs and starts goes on.
func (q *queue) fallback(why string) policy.Decision {
	d := policy.Decision{App: q.app, Wait: boots.WaitMin}
	rows, ok := q.a.balancer.Fleet().App(q.app)
	if !ok || q.waits() == 0 {
		return d
	}
	for m := range rows.All() {
		if (m.State == balance.StateStarted || m.State == balance.StateStarting) && m.Cordon != balance.CordonHard {
			return d
		}
	}
	d.Refuse, d.RetryAfter = why, policyPatience
	return d
}

// forecast notes what a decision says to those who wait.
func (q *queue) forecast(now time.Time, t *question, d policy.Decision) {
	q.last, q.quiet = t.in, d.Settled
	o := &forecast{wait: d.Wait, refuse: d.Refuse, until: now.Add(d.RetryAfter), doubt: d.Doubt}
	if t.off {
		o.off, o.wait = true, boots.WaitMin
	}
	if d.Await > 0 {
		o.await = now.Add(d.Await)
	}
	if d.Remaining > 0 {
		o.coming = now.Add(d.Remaining)
	}
	q.view.Store(o)
}

// withPolicy does something with the policy while it is not being asked; not at all when it does
// not come back.
func (q *queue) withPolicy(do func()) {
	patience := time.NewTimer(policyPatience)
	defer patience.Stop()
	select {
	case q.policyBusy <- struct{}{}:
	case <-patience.C:
		return
	}
	defer func() { <-q.policyBusy }()
	if _, err := contain.Call(func() (struct{}, error) { do(); return struct{}{}, nil }); err != nil {
		q.a.config.Trace.policyFailed(q.app, err)
	}
}

// brokenPolicy stands in for one that could not be made.
type brokenPolicy struct{ err error }

// Plan implements [policy.Policy].
func (b brokenPolicy) Plan(time.Time, policy.Input) policy.Decision { panic(b.err) }

// command is one that is on its way.
type command struct {
	id     balance.MachineID
	recall bool
}

// claim notes that a command for m is on its way. It is false when that is so already, or when m is
// another app's.
func (q *queue) claim(m *balance.Machine, recall bool) bool {
	q.answersMu.Lock()
	defer q.answersMu.Unlock()
	c := command{m.ID, recall}
	if q.asking[c] || m.App != q.app {
		return false
	}
	if q.asking == nil {
		q.asking = map[command]bool{}
	}
	q.asking[c] = true
	return true
}

// answer keeps an answer for the next decision.
func (q *queue) answer(a policy.Answer) {
	q.answersMu.Lock()
	defer q.answersMu.Unlock()
	if delete(q.asking, command{a.Machine.ID, a.Recall}); len(q.asking) == 0 {
		q.asking = nil
	}
	q.answers = append(q.answers, a)
}

// pretend answers what is decided in a dry run.
func (q *queue) pretend(d policy.Decision) {
	q.answersMu.Lock()
	defer q.answersMu.Unlock()
	now := time.Now()
	for _, m := range d.Recall {
		q.answers = append(q.answers, policy.Answer{At: now, Machine: m, Recall: true})
	}
	for _, m := range d.Start {
		q.answers = append(q.answers, policy.Answer{At: now, Machine: m, Start: balance.StartAccepted})
	}
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
		if l := q.learner(); l != nil {
			q.withPolicy(func() {
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
	a.queues.Range(func(_, q any) bool { q.(*queue).restore(); return true })
}

// restore gives the policy what has been restored for it. Where there is no policy yet that waits
// for it.
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
		q.withPolicy(func() { l.Restore(h) })
	}
}
