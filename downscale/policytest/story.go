package policytest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale/policy"
)

var epoch = time.Unix(1_000_000_000, 0)

// story is one app with its machines, and a policy that is asked about it each second.
type story struct {
	*testing.T
	subject Subject
	clause  string
	seed    uint64

	rand   *rand.Rand
	policy policy.Policy
	now    time.Time
	is     policy.Situation
	gone   map[balance.MachineID]time.Time // when a leaving machine will have stopped
}

// begin sets up the story: 1 to 8 machines of this node, started, in one or two regions.
func (s *story) begin() {
	s.rand = rand.New(rand.NewPCG(s.seed, 7))
	s.policy = s.newPolicy()
	s.now = epoch
	s.gone = map[balance.MachineID]time.Time{}
	s.is = policy.Situation{App: balance.App{ID: "app", Autostop: balance.AutostopStop}}
	regions := []string{"nrt", "hkg"}[:1+s.rand.IntN(2)]
	for i := range 1 + s.rand.IntN(8) {
		id := balance.MachineID(fmt.Sprint("m", i))
		s.is.Machines = append(s.is.Machines, policy.Seen{
			ID: id, Region: regions[s.rand.IntN(len(regions))], Rank: balance.MachineKey{App: "app", ID: id}.Rank(),
			State: balance.StateStarted, Limits: balance.Limits{Soft: 4, Hard: 8}, Own: true,
		})
	}
	s.sort()
}

// newPolicy returns a policy as a downscaler asks it.
func (s *story) newPolicy() policy.Policy { return &policy.Bounded{Policy: s.subject.New()} }

// minimums draws some minimums.
func (s *story) minimums() {
	s.is.App.Min = s.rand.IntN(len(s.is.Machines) + 1)
	s.is.App.MinPerRegion = s.rand.IntN(3)
}

func (s *story) sort() {
	slices.SortFunc(s.is.Machines, func(a, b policy.Seen) int {
		if a.Rank < b.Rank || a.Rank == b.Rank && a.ID < b.ID {
			return -1
		}
		return 1
	})
}

// chance is true once in n times.
func (s *story) chance(n int) bool { return s.rand.IntN(n) == 0 }

// happen changes the machines at random: load comes and goes, machines start, crash, and become
// busy.
func (s *story) happen() {
	for i := range s.is.Machines {
		m := &s.is.Machines[i]
		if s.chance(8) {
			m.Load = s.rand.IntN(6)
		}
		m.Used, m.Began = m.Own && s.chance(20), false
		if s.chance(100) {
			m.State = []balance.State{balance.StateStarted, balance.StateStarting, balance.StateStopped, balance.StateFailed}[s.rand.IntN(4)]
			m.Leaving = false
			delete(s.gone, m.ID)
		}
		if s.chance(100) {
			m.Hard = !m.Hard
		}
		if m.Own && s.chance(50) {
			m.Busy = !m.Busy
		}
		if m.State != balance.StateStarted {
			m.Load, m.Used = 0, false
		}
	}
}

// pass lets time pass, and stops leaving machines.
func (s *story) pass(d time.Duration) {
	s.now = s.now.Add(d)
	for i := range s.is.Machines {
		m := &s.is.Machines[i]
		if at, ok := s.gone[m.ID]; ok && !s.now.Before(at) {
			m.State, m.Leaving, m.Load = balance.StateStopped, false, 0
			delete(s.gone, m.ID)
		}
	}
}

// ask asks the policy about a copy of the situation.
func (s *story) ask() []policy.Decision {
	is := s.is
	is.Machines = slices.Clone(is.Machines)
	return slices.Clone(s.policy.Decide(s.now, is))
}

// follow carries out the decisions: a spared machine stops some seconds later.
func (s *story) follow(ds []policy.Decision) {
	for _, d := range ds {
		m := s.machine(d.Machine)
		if m == nil {
			continue
		}
		switch d.Verdict {
		case policy.VerdictSpare:
			m.Leaving = true
			s.gone[m.ID] = s.now.Add(time.Duration(1+s.rand.IntN(10)) * time.Second)
		case policy.VerdictRecall:
			m.Leaving = false
			delete(s.gone, m.ID)
		}
	}
}

func (s *story) machine(id balance.MachineID) *policy.Seen {
	for i := range s.is.Machines {
		if m := &s.is.Machines[i]; m.ID == id {
			return m
		}
	}
	return nil
}

// up counts the machines that run or will and stay, in one region or in all.
func (s *story) up(region string) (n int) {
	for _, m := range s.is.Machines {
		if (m.State == balance.StateStarted || m.State == balance.StateStarting) && !m.Hard &&
			!m.Leaving &&
			(region == "" || m.Region == region) {
			n++
		}
	}
	return n
}
