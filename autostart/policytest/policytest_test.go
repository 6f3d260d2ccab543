package policytest_test

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ebbkit/ebb/autostart/policy"
	"github.com/ebbkit/ebb/autostart/policytest"
	"github.com/ebbkit/ebb/balance"
)

func TestPlanner(t *testing.T) {
	policytest.TestPolicy(t, func() policy.Policy { return new(policy.Planner) })
}

func TestHedgingPlanner(t *testing.T) {
	policytest.TestPolicy(t, func() policy.Policy { return unparked{&policy.Planner{Hedge: true}} })
}

// unparked hides waiting requests from a planner: then it never hedges, and all clauses hold,
// except the one of silent owners, which needs waiting requests.
type unparked struct{ p *policy.Planner }

func (u unparked) Plan(now time.Time, in policy.Input) policy.Decision {
	if len(in.RTT) == 0 {
		in.InFlight, in.Parked = in.InFlight+in.Parked, 0
	}
	return u.p.Plan(now, in)
}

// faultEnv makes this binary run the suite on a policy with that fault; it must fail.
const faultEnv = "POLICYTEST_FAULT"

// faulty changes what our planner sees or says.
type faulty struct {
	p     *policy.Planner
	fault string
	n     int

	killed int
}

var serial int

func (f *faulty) Plan(now time.Time, in policy.Input) policy.Decision {
	f.n++
	switch f.fault {
	case "starts when idle":
		in.Parked++
	case "ignores off":
		in.App.Autostart = true
	case "knows only stopped":
		in.Machines = keep(in.Machines, func(m *balance.Machine) bool {
			return m.State != balance.StateSuspended && m.State != balance.StateFailed
		})
	case "one at a time":
		d := f.p.Plan(now, in)
		d.Start = d.Start[:min(1, len(d.Start))]
		return d
	case "one more":
		in.Parked += 10
	case "soft limit of nothing":
		if in.App.Limits.Soft == 0 {
			in.App.Limits.Soft = 1
		}
	case "no memory":
		f.p, in.Answers = new(policy.Planner), nil
	case "blind to boots":
		in.Machines = keep(
			in.Machines, func(m *balance.Machine) bool { return m.State != balance.StateStarting },
		)
	case "waits for ever":
		if f.n > 1 {
			return policy.Decision{}
		}
	case "never recalls":
		in.Machines = keep(
			in.Machines, func(m *balance.Machine) bool { return m.Cordon == balance.CordonNone },
		)
	case "no maximum":
		in.App.Max = 0
	case "no minimum":
		in.App.MinPerRegion = 0
	case "knows no cordon":
		rows := slices.Clone(in.Machines)
		for i, m := range rows {
			rows[i] = new(*m)
			rows[i].Cordon = balance.CordonNone
		}
		in.Machines = rows
	case "any region":
		slices.Reverse(in.Regions)
	case "all is home":
		rows := slices.Clone(in.Machines)
		for i, m := range rows {
			rows[i] = new(*m)
			rows[i].Region = "home"
		}
		d := f.p.Plan(
			now,
			policy.Input{
				App: in.App, Machines: rows, Regions: in.Regions, InFlight: in.InFlight, Parked: in.Parked,
				Answers: in.Answers,
			},
		)
		for i := range d.Start {
			for _, m := range in.Machines {
				if m.ID == d.Start[i].ID {
					d.Start[i] = *m
				}
			}
		}
		return d
	case "an order of its own":
		d := f.p.Plan(now, in)
		for i, s := range d.Start { // by turns
			d.Start[i] = *in.Machines[(i+serial)%len(in.Machines)]
			_ = s
		}
		serial += len(d.Start)
		return d
	case "what is gone is stopped": // as rows once said
		in.Machines = as(in.Machines, func(m *balance.Machine) {
			if m.State == balance.StateGone {
				m.State = balance.StateStopped
			}
		})
	case "waits for silent owners":
		in.RTT = nil
	case "blind to failing machines":
		in.Unserved = false
	case "trusts every stop":
		in.Machines = as(in.Machines, func(m *balance.Machine) {
			if m.State == balance.StateStopping {
				m.State = balance.StateStarting
			}
		})
	case "asks nobody who stops":
		in.Machines = keep(
			in.Machines, func(m *balance.Machine) bool { return m.State != balance.StateStopping },
		)
	case "a kill is a crash":
		if f.killed += len(keep(in.Machines, func(m *balance.Machine) bool { return m.State == balance.StateFailed })); f.killed > 2 {
			return policy.Decision{}
		}
	case "no back-off":
		f.p = new(policy.Planner)
	case "gives up":
		if slices.ContainsFunc(
			in.Machines, func(m *balance.Machine) bool { return m.State == balance.StateFailed },
		) {
			return policy.Decision{}
		}
	case "counts calls":
		serial++
		in.Parked += serial % 7
	case "writes":
		for _, m := range in.Machines {
			m.Addr = "mine"
		}
	}
	return f.p.Plan(now, in)
}

// as returns rows that have been changed.
func as(ms []*balance.Machine, change func(*balance.Machine)) []*balance.Machine {
	rows := slices.Clone(ms)
	for i, m := range rows {
		rows[i] = new(*m)
		change(rows[i])
	}
	return rows
}

func keep(ms []*balance.Machine, f func(*balance.Machine) bool) []*balance.Machine {
	return slices.DeleteFunc(slices.Clone(ms), func(m *balance.Machine) bool { return !f(m) })
}

func TestFault(t *testing.T) {
	fault := os.Getenv(faultEnv)
	if fault == "" {
		t.Skip("run by TestFaultsAreFound")
	}
	policytest.TestPolicy(t, func() policy.Policy {
		switch fault {
		case "synchronous":
			return policytest.NewSynchronous(0, 0)
		case "asynchronous":
			return policytest.NewAsynchronous(0, 0)
		}
		return &faulty{p: new(policy.Planner), fault: fault}
	})
}

// Bounded keeps these bounds for every policy: a policy need not keep them itself to pass the whole
// suite.
func TestPoliciesNeedNotRepeatTheBounds(t *testing.T) {
	for _, fault := range []string{"ignores off", "no maximum"} {
		t.Run(fault, func(t *testing.T) {
			policytest.TestPolicy(t,
				func() policy.Policy { return &faulty{p: new(policy.Planner), fault: fault} })
		})
	}
	// these break other bounds
	for fault, clause := range map[string]string{"no memory": "Credit/asked", "knows no cordon": "Bounds/cordon", "no back-off": "Failure/loop"} {
		t.Run(fault, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), os.Args[0],
				"-test.run=^TestFault$/^"+strings.ReplaceAll(clause, "/", "$/^")+"$")
			cmd.Env = append(os.Environ(), faultEnv+"="+fault)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v:\n%s", err, out)
			}
		})
	}
}

// The suite fails a policy for each fault, in the clause that the fault breaks (others may fail
// with it), and quotes it.
func TestFaultsAreFound(t *testing.T) {
	if testing.Short() {
		t.Skip("executes itself for each fault")
	}
	faults := map[string][]string{
		"starts when idle":      {"Demand/none"},
		"knows only stopped":    {"Demand/wakes"},
		"one at a time":         {"Demand/fills"},
		"one more":              {"Demand/serves"},
		"soft limit of nothing": {"Demand/unlimited"},
		"blind to boots":        {"Credit/boots", "Credit/others"},
		"waits for ever":        {"Credit/lost", "Faults/progress"},
		"never recalls":         {"Recall/first"},
		"no minimum":            {"Bounds/minimum"},
		"any region":            {"Regions/home"},
		"all is home":           {"Regions/starves"},
		"an order of its own":   {"Nodes/agree"},
		"gives up":              {"Failure/recovers"},
		"counts calls":          {"Values/equal"},

		"what is gone is stopped":   {"Nodes/gone"},
		"waits for silent owners":   {"Nodes/silent"},
		"blind to failing machines": {"Demand/failing"},
		"trusts every stop":         {"Stops/slow", "Stops/last"},
		"asks nobody who stops":     {"Stops/last"},
		"a kill is a crash":         {"Failure/killed"},
		// The rules of the modelled proxy, and exactly what is wrong with them.
		"synchronous":  {"Credit/boots", "Recall/first", "Bounds/minimum", "Regions/starves", "Nodes/lag"},
		"asynchronous": {"Demand/fills", "Credit/boots", "Recall/first", "Bounds/minimum", "Nodes/lag", "Failure/next"},
	}
	atOnce := make(chan struct{}, 2)
	var all sync.WaitGroup
	for fault, broken := range faults {
		all.Go(func() {
			atOnce <- struct{}{}
			defer func() { <-atOnce }()
			var groups, names []string
			for _, clause := range broken {
				group, name, _ := strings.Cut(clause, "/")
				groups, names = append(groups, group), append(names, name)
			}
			run := fmt.Sprintf(
				"^TestFault$/^(%s)$/^(%s)$", strings.Join(groups, "|"), strings.Join(names, "|"),
			)
			c := exec.Command(os.Args[0], "-test.run="+run, "-test.v", "-test.timeout=2m")
			c.Env = append(os.Environ(), faultEnv+"="+fault)
			out, err := c.CombinedOutput()
			for _, clause := range broken {
				if err == nil || !strings.Contains(string(out), "--- FAIL: TestFault/"+clause) {
					t.Errorf("a policy with the fault %q does not fail %s as it should (%v)", fault, clause, err)
				}
			}
			if !regexp.MustCompile(`the contract says: \w+ .*\n.*but: `).Match(out) {
				t.Errorf("no clause is quoted for the fault %q:\n%s", fault, out)
			}
		})
	}
	all.Wait()
}
