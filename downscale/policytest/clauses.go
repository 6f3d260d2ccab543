package policytest

import (
	"slices"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale/policy"
)

// clauses are the contract: a name for the subtest, the sentence that a failure quotes, and the
// check.
var clauses = []struct {
	name  string
	text  string
	check func(*story)
}{
	{"Spare/own", "a policy spares only machines that this node owns, that run, and that are not busy, hard-cordoned or leaving already", spareOwn},
	{"Spare/minimum", "with what is spared the app keeps its minimum running, and each region its own", spareMinimum},
	{"Spare/first", "the first of the canonical order, as many as the minimum, are never spared: so several policies keep it between them", spareFirst},
	{"Spare/held", "nothing is spared while autostop is off, while requests wait, or while that is not known", spareHeld},
	{"Spare/full", "nothing is spared while every machine is at its soft limit", spareFull},
	{"Spare/sleeps", "when nothing is used any more, the app goes to its minimum", sleeps},
	{"Recall/leaving", "a policy recalls only machines that this node owns and that are leaving", recallLeaving},
	{"Decide/reasons", "every decision names its app and region, and gives a reason", reasons},
	{"Decide/order", "the answer depends on what is seen, not on the order of the rows", anyOrder},
	{"Decide/again", "equal histories get equal answers", again},
	{"Decide/apart", "Decide does not change what it sees, but for the order", apart},
	{"Decide/time", "time may stand still and go back", backwards},
}

// random runs a story in which anything may happen, and lets check inspect each answer before it is
// followed.
func random(s *story, check func([]policy.Decision)) {
	s.begin()
	s.minimums()
	for i := range s.is.Machines {
		m := &s.is.Machines[i]
		m.Own = !s.chance(4)
		m.Known = !m.Own && s.chance(2)
		m.Stale = !m.Own && !m.Known && s.chance(4)
	}
	for range 400 {
		s.pass(time.Duration(1+s.rand.IntN(20)) * time.Second)
		if s.chance(3) {
			s.happen()
		}
		ds := s.ask()
		check(ds)
		s.follow(ds)
	}
}

func spareOwn(s *story) {
	random(s, func(ds []policy.Decision) {
		var spared []balance.MachineID
		for _, d := range ds {
			if d.Verdict != policy.VerdictSpare {
				continue
			}
			m := s.machine(d.Machine)
			switch {
			case m == nil:
				s.broken("%q was spared, which is no machine of the app", d.Machine)
			case slices.Contains(spared, m.ID):
				s.broken("%s was spared twice", m.ID)
			case !m.Own || m.State != balance.StateStarted || m.Busy || m.Hard || m.Leaving:
				s.broken("%s was spared: %+v", m.ID, *m)
			}
			spared = append(spared, m.ID)
		}
	})
}

func spareMinimum(s *story) {
	random(s, func(ds []policy.Decision) {
		was := slices.Clone(s.is.Machines)
		for _, d := range ds {
			m := s.machine(d.Machine)
			if d.Verdict != policy.VerdictSpare || m == nil || m.Leaving {
				continue
			}
			m.Leaving = true
			if s.up("") < s.is.App.Min || s.up(m.Region) < s.is.App.MinPerRegion {
				s.broken(
					"%d run and %d of them in %s without %s; the minimums are %d and %d", s.up(""), s.up(m.Region),
					m.Region, m.ID, s.is.App.Min, s.is.App.MinPerRegion,
				)
			}
		}
		s.is.Machines = was
	})
}

func spareFirst(s *story) {
	random(s, func(ds []policy.Decision) {
		first := map[string]int{}
		for i, m := range s.is.Machines {
			kept := i < s.is.App.Min || first[m.Region] < s.is.App.MinPerRegion
			first[m.Region]++
			if kept &&
				slices.ContainsFunc(
					ds,
					func(d policy.Decision) bool { return d.Verdict == policy.VerdictSpare && d.Machine == m.ID },
				) {
				s.broken(
					"%s was spared, the %d. of the order, with minimums of %d and %d", m.ID, i+1, s.is.App.Min,
					s.is.App.MinPerRegion,
				)
			}
		}
	})
}

func spareHeld(s *story) {
	s.begin()
	for range 400 {
		s.pass(time.Duration(1+s.rand.IntN(20)) * time.Second)
		s.happen()
		s.is.App.Autostop, s.is.Parked, s.is.Stale = balance.AutostopStop, 0, false
		why := "autostop is off"
		switch s.rand.IntN(3) {
		case 0:
			s.is.App.Autostop = balance.AutostopOff
		case 1:
			s.is.Parked, why = 1+s.rand.IntN(3), "requests wait"
		default:
			s.is.Stale, why = true, "whether requests wait is not known"
		}
		for _, d := range s.ask() {
			if d.Verdict == policy.VerdictSpare {
				s.broken("%s was spared while %s", d.Machine, why)
			}
		}
	}
}

func spareFull(s *story) {
	s.begin()
	for i := range s.is.Machines {
		s.is.Machines[i].Load = 4
	}
	for range 2000 {
		s.pass(time.Second)
		for _, d := range s.ask() {
			if d.Verdict == policy.VerdictSpare {
				s.broken("%s was spared: %s", d.Machine, d.Reason())
			}
		}
	}
}

func sleeps(s *story) {
	if s.subject.Sleeps < 0 {
		s.Skip("the policy does not promise that apps go to sleep")
	}
	s.begin()
	s.minimums()
	for range s.rand.IntN(200) {
		s.pass(time.Second)
		for i := range s.is.Machines {
			if s.chance(5) {
				s.is.Machines[i].Load = s.rand.IntN(5)
			}
		}
		s.follow(s.ask())
	}
	for i := range s.is.Machines {
		s.is.Machines[i].Load = 0
	}
	const step = 5 * time.Second // more would be a gap in which nobody knows what happened
	n := int(s.subject.Sleeps/step)*len(s.is.Machines) + 20
	for range n {
		s.pass(step)
		s.follow(s.ask())
	}
	first := map[string]int{}
	want := 0
	for i, m := range s.is.Machines {
		if i < s.is.App.Min || first[m.Region] < s.is.App.MinPerRegion {
			want++
		}
		first[m.Region]++
	}
	if got := s.up(""); got > want {
		s.broken("%d machines still run, want %d", got, want)
	}
}

func recallLeaving(s *story) {
	random(s, func(ds []policy.Decision) {
		for _, d := range ds {
			if m := s.machine(d.Machine); d.Verdict == policy.VerdictRecall &&
				(m == nil || !m.Own || !m.Leaving) {
				s.broken("%q was recalled, which is not leaving or not ours", d.Machine)
			}
		}
	})
}

func reasons(s *story) {
	random(s, func(ds []policy.Decision) {
		for _, d := range ds {
			if d.App != s.is.App.ID || d.Reason() == "" ||
				!slices.ContainsFunc(s.is.Machines, func(m policy.Seen) bool { return m.Region == d.Region }) {
				s.broken("decided %+v, %q", d, d.Reason())
			}
		}
	})
}

func anyOrder(s *story) {
	other := s.newPolicy()
	random(s, func(ds []policy.Decision) {
		is := s.is
		is.Machines = slices.Clone(is.Machines)
		s.rand.Shuffle(
			len(is.Machines),
			func(i, j int) { is.Machines[i], is.Machines[j] = is.Machines[j], is.Machines[i] },
		)
		if got := other.Decide(s.now, is); !same(ds, got) {
			s.broken("decided %v, and %v with the rows in another order", ds, got)
		}
	})
}

func again(s *story) {
	other := s.newPolicy()
	random(s, func(ds []policy.Decision) {
		is := s.is
		is.Machines = slices.Clone(is.Machines)
		if got := other.Decide(s.now, is); !same(ds, got) {
			s.broken("decided %v, and then %v", ds, got)
		}
	})
}

// same reports whether two answers spare and recall the same machines.
func same(a, b []policy.Decision) bool {
	acts := func(ds []policy.Decision) (out []string) {
		for _, d := range ds {
			if d.Verdict != policy.VerdictHold {
				out = append(out, d.Verdict.String()+" "+string(d.Machine))
			}
		}
		slices.Sort(out)
		return out
	}
	return slices.Equal(acts(a), acts(b))
}

func apart(s *story) {
	other := s.newPolicy()
	random(s, func([]policy.Decision) {
		is := s.is
		is.Machines = slices.Clone(is.Machines)
		other.Decide(s.now, is)
		for _, m := range is.Machines {
			if was := s.machine(m.ID); m != *was {
				s.broken("changed %+v to %+v", *was, m)
			}
		}
	})
}

func backwards(s *story) {
	s.begin()
	s.minimums()
	for range 400 {
		if s.now = s.now.Add(time.Duration(s.rand.IntN(10)-4) * time.Second); s.chance(100) {
			s.now = s.now.Add(-time.Hour)
		}
		s.happen()
		ds := s.ask()
		s.follow(ds)
		for id := range s.gone {
			s.gone[id] = s.now // stopped by the next look, whatever the clock says
		}
		s.pass(0)
	}
}
