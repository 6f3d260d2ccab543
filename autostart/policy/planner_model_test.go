package policy

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
	"pgregory.net/rapid"
)

// truth is one machine as its owner knows it, and what the planner's node has heard of it.
type truth struct {
	gate  *balance.Gate
	token uint64
	row   *balance.Machine // as seen by the node; rows come late, and a newer one replaces older ones
	fault string
}

func (m *truth) news() *balance.Machine {
	l := m.gate.Load()
	n := *m.row
	n.State, n.Epoch, n.Cordon, n.CordonGen, n.Fault = l.State, l.Epoch, l.Cordon, l.CordonGen, m.fault
	return &n
}

// Invariants A1, A2, A4 and A9 of one planner with a static demand, while commands are lost,
// answers and rows are late and boots fail. No more machines run than are wanted; without failed
// boots exactly as many start.
func TestPlannerModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		soft := rapid.IntRange(0, 5).Draw(t, "soft")
		n := rapid.IntRange(1, 6).Draw(t, "machines")
		demand := rapid.IntRange(1, 20).Draw(t, "demand")
		app := balance.App{
			ID: "web", Autostart: true, Limits: balance.Limits{Soft: soft},
			Max: rapid.SampledFrom([]int{0, 0, 1, 3}).Draw(t, "max"), Min: 0,
		}
		want := 1
		if soft > 0 {
			want = min(n, (demand+soft-1)/soft)
		}
		if app.Max > 0 {
			want = min(want, app.Max)
		}
		ms := map[balance.MachineID]*truth{}
		var ids []balance.MachineID
		for i := range n {
			g, _ := balance.NewGate(app.Limits)
			id := balance.MachineID(fmt.Sprintf("m%d", i))
			ids = append(ids, id)
			ms[id] = &truth{gate: g, row: &balance.Machine{ID: id, App: "web", Region: "nrt"}}
		}
		p := new(Planner)
		now := t0
		var commands []balance.Machine // not yet delivered
		type answer struct {
			m   balance.Machine
			a   balance.StartAnswer
			err error
		}
		var answers []answer
		pending := map[balance.MachineID]uint64{} // starts without an answer, by epoch
		starts, failures := 0, 0

		active := func() (k int) {
			for _, m := range ms {
				if s := m.gate.State(); s == balance.StateStarting || s == balance.StateStarted {
					k++
				}
			}
			return k
		}
		plan := func(t *rapid.T) {
			var rows []*balance.Machine
			for _, id := range ids {
				rows = append(rows, ms[id].row)
			}
			before := p.breaker
			d := p.Plan(
				now,
				Input{
					App: app, Machines: rows, Regions: []string{"nrt"}, Parked: demand,
					Rand: rapid.Uint64().Draw(t, "bits"),
				},
			)
			fresh := 0 // those that the owner has not accepted yet
			for _, m := range d.Start {
				if ms[m.ID].gate.Load().Epoch == m.Epoch {
					fresh++
				}
			}
			if before.open && p.breaker.open && (fresh > 1 || fresh == 1 && now.Before(before.next)) {
				t.Fatalf(
					"A9: %d starts while the breaker is open, %v before the next is due", fresh,
					before.next.Sub(now),
				)
			}
			for _, m := range d.Start {
				if e, ok := pending[m.ID]; ok && e == m.Epoch {
					t.Fatalf("A4: %s is asked to start from epoch %d while that is under way", m.ID, e)
				}
				pending[m.ID] = m.Epoch
				commands = append(commands, m)
			}
		}
		deliver := func(i int) {
			m := commands[i]
			commands = slices.Delete(commands, i, i+1)
			tm := ms[m.ID]
			token, a := tm.gate.Start(m.Epoch)
			if a == balance.StartAccepted {
				tm.token = token
				starts++
			}
			answers = append(answers, answer{m, a, nil})
		}
		hear := func(i int) {
			a := answers[i]
			answers = slices.Delete(answers, i, i+1)
			if pending[a.m.ID] == a.m.Epoch {
				delete(pending, a.m.ID)
			}
			p.answered(now, a.m, a.a, a.err)
		}
		boot := func(id balance.MachineID, ok bool) {
			m := ms[id]
			if m.gate.State() != balance.StateStarting {
				return
			}
			if ok {
				m.fault = ""
				m.gate.Ready(m.token)
			} else {
				m.fault = "broken"
				m.gate.Fail(m.token)
				failures++
			}
		}
		anyone := rapid.SampledFrom(ids)
		plan(t)
		t.Repeat(map[string]func(*rapid.T){
			"time passes": func(t *rapid.T) {
				now = now.Add(
					rapid.SampledFrom([]time.Duration{0, time.Millisecond, 100 * time.Millisecond, sec, 10 * sec, 100 * sec}).
						Draw(t, "how long"),
				)
				plan(t)
			},
			"command arrives": func(t *rapid.T) {
				if len(commands) == 0 {
					t.Skip()
				}
				deliver(rapid.IntRange(0, len(commands)-1).Draw(t, "which"))
			},
			"command is lost": func(t *rapid.T) {
				if len(commands) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(commands)-1).Draw(t, "which")
				if ms[commands[i].ID].gate.Load().Epoch != commands[i].Epoch {
					t.Skip() // no accepted start is lost in this model: the owner lives
				}
				answers = append(answers, answer{commands[i], 0, errors.New("lost")})
				commands = slices.Delete(commands, i, i+1)
			},
			"command arrives twice": func(t *rapid.T) {
				if len(commands) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(commands)-1).Draw(t, "which")
				commands = append(commands, commands[i])
				deliver(i)
			},
			"answer arrives twice": func(t *rapid.T) {
				if len(answers) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(answers)-1).Draw(t, "which")
				if answers[i].err == nil {
					answers = append(answers, answers[i])
				}
				hear(i)
				plan(t)
			},
			"node restarts": func(t *rapid.T) { // and reads the rows before it decides
				if len(commands) > 0 {
					t.Skip() // it would not know of commands under way
				}
				p, answers = new(Planner), nil
				clear(pending)
				for _, id := range ids {
					ms[id].row = ms[id].news()
				}
				plan(t)
			},
			"clock jumps back": func(t *rapid.T) {
				now = now.Add(-rapid.SampledFrom([]time.Duration{sec, time.Hour}).Draw(t, "how far"))
				plan(t)
			},
			"answer arrives": func(t *rapid.T) {
				if len(answers) == 0 {
					t.Skip()
				}
				hear(rapid.IntRange(0, len(answers)-1).Draw(t, "which"))
				plan(t)
			},
			"news arrive": func(t *rapid.T) {
				m := ms[anyone.Draw(t, "of")]
				m.row = m.news()
				plan(t)
			},
			"boot ends":  func(t *rapid.T) { boot(anyone.Draw(t, "of"), true) },
			"boot fails": func(t *rapid.T) { boot(anyone.Draw(t, "of"), false) },
			"": func(t *rapid.T) {
				if k := active(); k > want {
					t.Fatalf("A1: %d machines run or start, %d are wanted", k, want)
				}
				if starts > want+failures {
					t.Fatalf("A1: %d starts for %d machines and %d failed boots", starts, want, failures)
				}
			},
		})
		// A2: when nothing is lost or late any more, the wanted machines run.
		for range 200 {
			for len(commands) > 0 {
				deliver(0)
			}
			for len(answers) > 0 {
				hear(0)
			}
			for _, id := range ids {
				boot(id, true)
				ms[id].row = ms[id].news()
			}
			plan(t)
			now = now.Add(sec)
		}
		if k := active(); k != want {
			t.Fatalf("A2: %d machines run after all is well, %d are wanted", k, want)
		}
	})
}

// Invariant A8: planners that do not communicate, with any split of the demand over them and any
// part of it known to others, start together at most what one planner that knew everything would
// start.
func TestPlannersAgree(t *testing.T) {
	states := []balance.State{
		balance.StateStopped, balance.StateStopped, balance.StateSuspended, balance.StateStarted,
		balance.StateStarting, balance.StateFailed,
	}
	rapid.Check(t, func(t *rapid.T) {
		app := balance.App{
			ID: "web", Autostart: true, Limits: balance.Limits{Soft: rapid.IntRange(0, 5).Draw(t, "soft")},
			Max: rapid.IntRange(0, 8).Draw(t, "max"),
		}
		app.Min = rapid.IntRange(0, min(3, app.Max)).Draw(t, "min")
		var rows []*balance.Machine
		regions := []string{"nrt", "hkg"}
		for i := range rapid.IntRange(1, 12).Draw(t, "machines") {
			m := &balance.Machine{
				ID: balance.MachineID(fmt.Sprintf("m%d", i)), App: "web",
				Region: rapid.SampledFrom(regions).Draw(t, "region"),
				State:  rapid.SampledFrom(states).Draw(t, "state"), Epoch: 1,
			}
			if m.State == balance.StateStarted && rapid.Bool().Draw(t, "cordoned") {
				m.Cordon, m.CordonGen = balance.CordonSoft, 1
			}
			m.Limits.Soft = rapid.SampledFrom([]int{0, 0, 0, 7}).Draw(t, "own soft")
			rows = append(rows, m)
		}
		split := rapid.SliceOfN(rapid.IntRange(0, 12), 1, 6).Draw(t, "demand of each node")
		total := 0
		for _, d := range split {
			total += d
		}
		decide := func(own, others int) Decision {
			return new(
				Planner,
			).Plan(t0, Input{App: app, Machines: rows, Regions: regions, Parked: own, Others: []int{others}})
		}
		all := decide(total, 0)
		var starts, recalls []balance.MachineID
		for _, d := range split {
			each := decide(d, rapid.IntRange(0, total-d).Draw(t, "known of others"))
			for i, m := range each.Start {
				if i >= len(all.Start) && len(each.Start) > len(all.Start) {
					t.Fatalf(
						"a node with a part of the demand starts %d, with all of it %d", len(each.Start),
						len(all.Start),
					)
				}
				starts = append(starts, m.ID)
			}
			for _, m := range each.Recall {
				recalls = append(recalls, m.ID)
			}
		}
		contains := func(ms []balance.Machine, id balance.MachineID) bool {
			return slices.ContainsFunc(ms, func(m balance.Machine) bool { return m.ID == id })
		}
		for _, id := range starts {
			if !contains(all.Start, id) {
				t.Fatalf("%s is started although the whole demand does not need it: %v", id, all)
			}
		}
		for _, id := range recalls {
			if !contains(all.Recall, id) {
				t.Fatalf("%s is recalled although the whole demand does not need it: %v", id, all)
			}
		}
	})
}
