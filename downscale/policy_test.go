package downscale

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale/policy"
	"github.com/google/go-cmp/cmp"
)

// policyFunc is a policy without a memory.
type policyFunc func(now time.Time, s policy.Situation) []policy.Decision

func (f policyFunc) Decide(now time.Time, s policy.Situation) []policy.Decision { return f(now, s) }

func TestAPolicyIsVetoed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		app := stopApp
		app.Min = 1
		c := quick
		c.Policy = func(balance.AppID) policy.Policy {
			return policyFunc(func(_ time.Time, s policy.Situation) (out []policy.Decision) {
				for _, id := range []balance.MachineID{"ghost", "m1", "m1", "m2", "m3"} {
					out = append(
						out,
						policy.Decision{
							App: s.App.ID, Region: "nrt", Machine: id, Verdict: policy.VerdictSpare,
							Text: "because I say so",
						},
					)
				}
				return append(
					out, policy.Decision{Machine: "ghost", Verdict: policy.VerdictRecall},
					policy.Decision{Machine: "m2", Verdict: policy.VerdictRecall},
				)
			})
		}
		b := newBench(t, c, app, "m1", "m2", "m3")
		var vetoed []string
		b.down.config.Trace.Vetoed = func(d policy.Decision) { vetoed = append(vetoed, string(d.Machine)) }
		end := b.run()
		time.Sleep(1500 * time.Millisecond)
		b.want("0s cordon m1: because I say so", "0s cordon m3: because I say so", "1.1s stop m1: because I say so", "1.1s stop m3: because I say so",
			"1.2s stopped m1 in 100ms", "1.2s stopped m3 in 100ms")
		b.wantStates("m1 stopped gone, m2 started running, m3 stopped gone") // m2 is the first of the order
		end()
		if want := []string{"ghost", "m1", "m2", "m3"}; !slices.Equal(
			vetoed, want,
		) { // m3 in the second tick: it is on its way
			t.Errorf("vetoed %v, want %v, each once", vetoed, want)
		}
	})
}

// Loads reach the policy through the shell.
func TestTheShellShowsLoads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var saw []string
		c := quick
		c.Views = &views{loads: map[balance.MachineID][2]int{"far-1": {3, 2}}}
		c.Policy = func(balance.AppID) policy.Policy {
			return policyFunc(func(_ time.Time, s policy.Situation) []policy.Decision {
				saw = nil
				for _, m := range s.Machines {
					saw = append(
						saw,
						fmt.Sprintf("%s own %v known %v stale %v load %d idle %d leaving %v", m.ID, m.Own, m.Known,
							m.Stale, m.Load, m.Idle, m.Leaving),
					)
				}
				slices.Sort(saw)
				return nil
			})
		}
		b := newBench(t, c, stopApp, "m1")
		for _, id := range []balance.MachineID{"far-1", "far-2", "far-3"} {
			cordon := balance.CordonNone
			if id == "far-2" {
				cordon = balance.CordonSoft
			}
			row := balance.Machine{
				ID: id, App: "web", Region: "nrt", Owner: "elsewhere", State: balance.StateStarted,
				Cordon: cordon,
			}
			if err := b.fleet.Apply(balance.PutMachine{Machine: row, Version: balance.Version{Incarnation: 1, Seq: 1}}); err != nil {
				t.Fatal(err)
			}
		}
		end := b.run()
		time.Sleep(sec / 2)
		end()
		want := []string{
			"far-1 own false known true stale false load 3 idle 2 leaving false",
			"far-2 own false known false stale true load 0 idle 0 leaving true",
			"far-3 own false known false stale false load 0 idle 0 leaving false",
			"m1 own true known false stale false load 0 idle 0 leaving false",
		}
		if d := cmp.Diff(want, saw); d != "" {
			t.Error(d)
		}
	})
}
