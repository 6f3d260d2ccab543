package policytest

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/ebbkit/ebb/autostart/policy"
	"github.com/ebbkit/ebb/balance"
)

// windowDefault is the window of the proxy that these rules are modelled on.
const windowDefault = 20 * time.Second

// NewSynchronous returns the old rule of the proxy that this library is modelled on. When no
// machine below its soft limit can serve a request, a machine is started and the request is bound
// to it; if that does not become ready in time, the request is bound to another one. So boots
// longer than wait start a machine per wait. wait 0 means 20 s. Each node has an order of its own,
// by salt; nodes with the same salt share one. The rule is for comparisons, and for those who want
// exactly it.
func NewSynchronous(wait time.Duration, salt uint64) policy.Policy {
	return &windowed{window: cmp.Or(max(wait, 0), windowDefault), salt: salt}
}

// NewAsynchronous returns the later rule of that proxy: when all running machines are at their soft
// limits, or none runs, one machine is started, and no other until the window has passed since. So
// boots longer than the window start a machine per window, and a burst of requests gets one machine
// per window too. window 0 means 20 s; for salt see [NewSynchronous].
func NewAsynchronous(window time.Duration, salt uint64) policy.Policy {
	return &windowed{window: cmp.Or(max(window, 0), windowDefault), salt: salt, single: true}
}

// windowed counts on a start for a while, and then ignores it.
type windowed struct {
	window time.Duration
	salt   uint64
	single bool
	seen   map[balance.MachineID]windowedSight
}

// windowedSight is when a machine was last asked to start, or seen starting.
type windowedSight struct {
	epoch uint64 // of the row that it was asked from
	at    time.Time
}

// KeepsBounds says that this rule is used as it is, without the bounds of [policy.Bounded].
func (w *windowed) KeepsBounds() {}

// Plan implements [policy.Policy].
func (w *windowed) Plan(now time.Time, in policy.Input) policy.Decision {
	d := policy.Decision{App: in.App.ID, Demand: in.Demand(), Wait: 180 * time.Second}
	if w.seen == nil {
		w.seen = map[balance.MachineID]windowedSight{}
	}
	for _, a := range in.Answers {
		if !a.Recall && (a.Err != nil || a.Start == balance.StartRefused) {
			delete(w.seen, a.Machine.ID)
		}
	}
	var can []*balance.Machine
	var capacity int64
	running, trusted, active := 0, 0, 0
	for _, m := range in.Machines {
		if m.Cordon == balance.CordonHard || m.State == balance.StateGone {
			continue
		}
		s, seen := w.seen[m.ID]
		if m.State == balance.StateStarting && (!seen || s.epoch+1 != m.Epoch) {
			s, seen = windowedSight{epoch: m.Epoch - 1, at: now}, true
			w.seen[m.ID] = s
		}
		asked := seen && m.Epoch <= s.epoch // the row does not show it yet
		fresh := seen && now.Sub(s.at) < w.window && (asked || m.State == balance.StateStarting)
		if m.State == balance.StateStarting || m.State == balance.StateStarted || asked && fresh {
			active++
		}
		switch {
		case m.State == balance.StateStarted:
			running++
			capacity += roomOf(in.App.LimitsOf(*m))
		case fresh:
			trusted++
			capacity += roomOf(in.App.LimitsOf(*m))
		case m.State.Startable():
			can = append(can, m)
		}
		if w.single && seen && now.Sub(s.at) < w.window {
			trusted = max(trusted, 1)
		}
	}
	d.Have = running + trusted
	if !in.App.Autostart || d.Demand == 0 || w.single && trusted > 0 {
		return d
	}
	rest := int64(d.Demand) - capacity
	if in.Parked == 0 && w.single {
		rest++ // being at the soft limit is enough
	}
	region := func(m *balance.Machine) int { return slices.Index(in.Regions, m.Region) }
	rank := func(m *balance.Machine) uint64 {
		r := m.Key().Rank()
		if w.salt != 0 {
			r = (r ^ w.salt) * 0x9e3779b97f4a7c15
			r ^= r >> 29
		}
		return r
	}
	slices.SortFunc(can, func(a, b *balance.Machine) int {
		return cmp.Or(cmp.Compare(region(a), region(b)), cmp.Compare(rank(a), rank(b)), cmp.Compare(a.ID, b.ID))
	})
	for _, m := range can {
		if rest <= 0 || region(m) < 0 || in.App.Max > 0 && active >= in.App.Max {
			break
		}
		w.seen[m.ID] = windowedSight{epoch: m.Epoch, at: now}
		d.Start = append(d.Start, *m)
		rest -= roomOf(in.App.LimitsOf(*m))
		active++
		if w.single {
			break
		}
	}
	d.Want = d.Have + len(d.Start)
	if d.Acts() {
		d.Reason = fmt.Sprintf("demand %d, running %d, started within %v %d", d.Demand, running, w.window, trusted)
	}
	return d
}

// roomOf returns how many requests a machine is assumed to serve: its soft limit, else its hard
// limit.
func roomOf(l balance.Limits) int64 {
	switch {
	case l.Soft > 0:
		return int64(l.Soft)
	case l.Hard > 0:
		return int64(l.Hard)
	}
	return math.MaxInt32
}
