package policytest_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale/policy"
	"github.com/ebbkit/ebb/downscale/policytest"
)

const sec = time.Second

// load puts requests on machines, in their order.
func load(per ...int) func(*policy.Situation) {
	return func(s *policy.Situation) {
		for i, n := range per {
			s.Machines[i].Load = n
		}
	}
}

func machines(soft int, n int) (all []policy.Seen) {
	for i := range n {
		all = append(all, policy.Seen{
			ID: balance.MachineID(fmt.Sprint("m", i+1)), Region: "nrt", Rank: uint64(i),
			State: balance.StateStarted, Limits: balance.Limits{Soft: soft, Hard: 2 * soft}, Own: true,
		})
	}
	return all
}

func words(ds []policy.Decision) string {
	var all []string
	for _, d := range ds {
		all = append(all, fmt.Sprintf("%v %s: %s", d.Verdict, d.Machine, d.Reason()))
	}
	return strings.Join(all, "; ")
}

func TestTheDocumentedRule(t *testing.T) {
	stop := balance.App{ID: "web", Autostop: balance.AutostopStop}
	app := func(edit func(*balance.App)) balance.App { a := stop; edit(&a); return a }
	for _, c := range []struct {
		name string
		app  balance.App
		n    int
		do   func(*policy.Situation)
		want string
	}{
		{"none is over: one goes, however full the others are", stop, 2, load(9, 9), "spare m2: 2 machines running, 0 at the soft limit"},
		{"one of two is over: nothing", stop, 2, load(10, 0), ""},
		{"one of three is over", stop, 3, load(10, 3, 5), "spare m2: 3 machines running, 1 at the soft limit"},
		{"one pass stops one machine", stop, 9, nil, "spare m9: 9 machines running, 0 at the soft limit"},
		{"a single machine stops at load 0", stop, 1, nil, "spare m1: 1 machine running, 0 at the soft limit"},
		{"and not at load 1", stop, 1, load(1), ""},
		{"the minimum", app(func(a *balance.App) { a.Min = 2 }), 2, nil, ""},
		{"parked", stop, 2, func(s *policy.Situation) { s.Parked = 1 }, ""},
		{"busy", stop, 2, func(s *policy.Situation) { s.Machines[1].Busy = true }, "spare m1: 2 machines running, 0 at the soft limit"},
		{"each region by itself", stop, 4, func(s *policy.Situation) { s.Machines[0].Region, s.Machines[1].Region = "hkg", "hkg" },
			"spare m2: 2 machines running, 0 at the soft limit; spare m4: 2 machines running, 0 at the soft limit"},
		{"what others own", stop, 3, func(s *policy.Situation) { s.Machines[1].Own, s.Machines[2].Own = false, false }, "spare m1: 1 machine running, 0 at the soft limit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var e policytest.Excess
			s := policy.Situation{App: c.app, Machines: machines(10, c.n)}
			if c.do != nil {
				c.do(&s)
			}
			start := time.Unix(0, 0)
			for at := time.Duration(0); at < 3*time.Minute; at += 10 * sec {
				if ds := e.Decide(start.Add(at), s); len(ds) > 0 {
					t.Fatalf("at %v: %s", at, words(ds))
				}
			}
			if got := words(e.Decide(start.Add(3*time.Minute), s)); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			if ds := e.Decide(start.Add(4*time.Minute), s); len(ds) > 0 {
				t.Errorf("a minute later: %s", words(ds))
			}
		})
	}
}
