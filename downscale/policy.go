package downscale

import (
	"time"

	"github.com/ebbkit/ebb/balance"
)

// Policy decides which machines of one app are surplus. It sees one app only, and is not called from two goroutines at once.
// [Decider] is the default, [Excess] another; package downscaletest checks yours.
//
// A policy decides and does not act: between its word and a stopped machine stands the [Protocol]. What it says for machines
// that are not this node's, that do not run or are on their way already, or against a minimum or while autostop is off,
// nothing is waiting or known, is not carried out.
type Policy interface {
	// Decide returns the machines to spare and those of the leaving ones to recall, at time now. It is asked each
	// [Config.Every]. Time may stand still; it does not go back by more than clocks do. s and its machines are valid until
	// Decide returns, and the answer until the next call.
	Decide(now time.Time, s Situation) []Decision
}

// floor tells which machines an app's minimums let go, as one after the other goes.
type floor struct {
	app     balance.App
	kept    []bool // by machine: it is one of the first of the order
	running int
	regions map[string]int
}

func floorOf(s *Situation) floor {
	f := floor{app: s.App, kept: make([]bool, len(s.Machines)), regions: map[string]int{}}
	first := map[string]int{}
	for i := range s.Machines {
		m := &s.Machines[i]
		f.kept[i] = i < s.App.Min || first[m.Region] < s.App.MinPerRegion
		first[m.Region]++
		if m.counts() {
			f.running++
			f.regions[m.Region]++
		}
	}
	return f
}

// counts reports whether m runs or will, and stays.
func (m *Seen) counts() bool {
	return (m.State == balance.Started || m.State == balance.Starting) && !m.Hard && !m.Leaving
}

// spareable reports whether m can be told to go at all.
func (m *Seen) spareable() bool {
	return m.Own && m.State == balance.Started && !m.Hard && !m.Leaving && !m.Busy
}

// lets reports whether the minimums let machine i of the situation go.
func (f *floor) lets(s *Situation, i int) bool {
	return !f.kept[i] && f.running > f.app.Min && f.regions[s.Machines[i].Region] > f.app.MinPerRegion
}

func (f *floor) goes(s *Situation, i int) {
	f.running--
	f.regions[s.Machines[i].Region]--
}

// veto splits what a policy said into what the owner carries out and what it does not. allowed shares ds's memory.
func veto(s *Situation, ds []Decision, refuse func(Decision)) (allowed []Decision) {
	var (
		f    floor
		made bool
	)
	allowed = ds[:0]
	for _, d := range ds {
		if d.Verdict != Spare {
			allowed = append(allowed, d)
			continue
		}
		if !made {
			f, made = floorOf(s), true
		}
		if i := s.index(d.Machine); i < 0 || s.held() || !s.Machines[i].spareable() || !f.lets(s, i) {
			if i >= 0 && s.Machines[i].Busy {
				d.Open = s.Machines[i].Open
			}
			refuse(d)
		} else {
			f.goes(s, i)
			s.Machines[i].Leaving = true // once only
			allowed = append(allowed, d)
		}
	}
	return allowed
}

func (s *Situation) index(id balance.MachineID) int {
	for i := range s.Machines {
		if s.Machines[i].ID == id {
			return i
		}
	}
	return -1
}

// held reports whether nothing of the app is to be stopped, whatever the load.
func (s *Situation) held() bool {
	_, held := s.hold()
	return held
}

// hold returns why nothing of the app is to be stopped.
func (s *Situation) hold() (of Decision, held bool) {
	switch {
	case s.App.Autostop == balance.AutostopOff:
		return Decision{Why: RuleOff}, true
	case s.Parked > 0:
		return Decision{Why: RuleParked, Count: s.Parked}, true
	case s.Stale:
		return Decision{Why: RuleStale}, true
	}
	return Decision{}, false
}
