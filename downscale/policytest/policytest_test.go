package policytest_test

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale/policy"
	"github.com/ebbkit/ebb/downscale/policytest"
)

func TestGoodPolicies(t *testing.T) {
	decider := func(c policy.Config) func() policy.Policy {
		return func() policy.Policy {
			d, err := policy.NewDecider(c)
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
	}
	cost := policy.Config{
		Window: 2 * time.Minute, Headroom: 0.9, KeepAlive: time.Minute, Settle: 15 * time.Second,
	}
	latency := policy.Config{
		Window: 15 * time.Minute, Headroom: 0.7, KeepAlive: 30 * time.Minute, Settle: time.Minute,
	}
	for name, s := range map[string]policytest.Subject{
		"balanced": {New: decider(policy.Config{}), Sleeps: 10 * time.Minute},
		"cost":     {New: decider(cost), Sleeps: 2 * time.Minute},
		"latency":  {New: decider(latency)},
		"excess":   {New: func() policy.Policy { return &policytest.Excess{} }, Sleeps: 10 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			s.Stories = 10
			policytest.TestPolicy(t, s)
		})
	}
}

// faulty is a policy with one fault: Excess, and then something wrong.
type faulty struct {
	policytest.Excess
	fault string
}

func (f *faulty) Decide(now time.Time, s policy.Situation) []policy.Decision {
	f.Pass = time.Nanosecond
	spare := func(m policy.Seen) policy.Decision {
		return policy.Decision{
			App: s.App.ID, Region: m.Region, Machine: m.ID, Verdict: policy.VerdictSpare,
		}
	}
	var all []policy.Decision
	for _, m := range s.Machines {
		all = append(all, spare(m))
	}
	switch f.fault {
	case "spares others'":
		return all
	case "unknown machines":
		return append(f.Excess.Decide(now, s), spare(policy.Seen{ID: "ghost", Region: "nrt"}))
	case "below the minimum", "the first of the order":
		s.App.Min, s.App.MinPerRegion = 0, 0
	case "parked":
		s.Parked = 0
	case "autostop off":
		s.App.Autostop = balance.AutostopStop
	case "busy":
		for i := range s.Machines {
			s.Machines[i].Load = 0
		}
	case "never":
		return nil
	case "recalls":
		return []policy.Decision{
			{
				App: s.App.ID, Region: s.Machines[0].Region, Machine: s.Machines[0].ID,
				Verdict: policy.VerdictRecall,
			},
		}
	case "nameless":
		ds := f.Excess.Decide(now, s)
		for i := range ds {
			ds[i].App = ""
		}
		return ds
	case "by row":
		if m := s.Machines[0]; m.Own && m.State == balance.StateStarted && !m.Hard && !m.Leaving &&
			!m.Busy {
			return []policy.Decision{spare(m)}
		}
	case "by chance":
		if time.Now().UnixNano()%3 == 0 {
			return nil
		}
	}
	return f.Excess.Decide(now, s)
}

var faults = map[string]string{
	"never":     "Spare/sleeps",
	"by chance": "Decide/again",
}

// bounded are faults against the bounds that Bounded enforces.
var bounded = []string{
	"spares others'", "unknown machines", "below the minimum", "the first of the order", "parked",
	"autostop off", "busy", "recalls", "nameless", "by row",
}

// Bounded enforces the bounds: a policy need not repeat them to pass the whole suite.
func TestPoliciesNeedNotRepeatTheBounds(t *testing.T) {
	for _, fault := range bounded {
		t.Run(fault, func(t *testing.T) {
			s := policytest.Subject{
				New: func() policy.Policy { return &faulty{fault: fault} }, Sleeps: 5 * time.Minute,
				Stories: 5,
			}
			if fault == "recalls" || fault == "by row" {
				s.Sleeps = -1
			}
			policytest.TestPolicy(t, s)
		})
	}
}

// faultEnv makes this binary run the suite on a policy with that fault; it must fail.
const faultEnv = "POLICYTEST_FAULT"

func TestFault(t *testing.T) {
	fault := os.Getenv(faultEnv)
	if fault == "" {
		t.Skip("run by TestFaultsAreFound")
	}
	policytest.TestPolicy(
		t,
		policytest.Subject{
			New: func() policy.Policy { return &faulty{fault: fault} }, Sleeps: 5 * time.Minute, Stories: 20,
		},
	)
}

// The suite fails a policy for each fault, in the clause that the fault breaks (others may fail
// with it), and quotes it.
func TestFaultsAreFound(t *testing.T) {
	if testing.Short() {
		t.Skip("executes itself for each fault")
	}
	for fault, clause := range faults {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFault$/"+clause)
			cmd.Env = append(os.Environ(), faultEnv+"="+fault)
			out, err := cmd.CombinedOutput()
			if err == nil ||
				!regexp.MustCompile(`--- FAIL: TestFault/`+regexp.QuoteMeta(clause)).Match(out) ||
				!strings.Contains(string(out), "the contract says: ") {
				t.Errorf("the fault was not found in %s (%v):\n%s", clause, err, out)
			}
		})
	}
}
