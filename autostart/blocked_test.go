package autostart

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/autostart/policy"
	"github.com/ebbkit/ebb/balance"
)

// twoApps is a world whose app "web" has our policy and a machine, and in which p is the policy of "bad", which has one too.
// It notes which policies failed.
func twoApps(t *testing.T, p func() policy.Policy) *world {
	t.Helper()
	var w *world
	w = newWorld(t, balance.App{ID: "web", Autostart: true, Limits: balance.Limits{Hard: 1}}, Config{
		Policy: func(app balance.AppID) policy.Policy {
			if app == "bad" {
				return p()
			}
			return nil
		},
		Trace: Trace{PolicyFailed: func(app balance.AppID, err error) { w.note(fmt.Sprintf("failed %s: %v", app, err)) }},
	}, boot{takes: sec}, boot{takes: sec})
	if err := w.fleet.Apply(balance.PutApp{App: balance.App{ID: "bad", Autostart: true}}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.fleet.Host(balance.Machine{ID: "bad-1", App: "bad", Region: "nrt"}); err != nil {
		t.Fatal(err)
	}
	w.boots["bad-1"] = boot{takes: sec}
	return w
}

// bad asks for the app whose policy misbehaves.
func (w *world) bad() (time.Duration, error) {
	began := time.Now()
	r := balance.Request{App: "bad"}
	slot, err := w.a.Acquire(w.t.Context(), &r)
	if err == nil {
		slot.Release(balance.OutcomeDone)
	}
	return time.Since(began), err
}

func wantRefusal(t *testing.T, err error, cause string) {
	t.Helper()
	e, ok := errors.AsType[*Error](err)
	if !ok || !errors.Is(err, ErrStart) || !strings.Contains(e.Reason(), cause) || e.RetryAfter() <= 0 {
		t.Errorf("%v, want ErrStart with %q and a time to come back", err, cause)
	}
}

func TestBlockedPolicyStopsItsAppOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		blocked, calls := make(chan struct{}), 0
		w := twoApps(t, func() policy.Policy {
			ours := new(policy.Planner)
			return policyFunc(func(now time.Time, in policy.Input) policy.Decision {
				if in.Parked > 0 {
					if calls++; calls == 1 {
						<-blocked
					}
				}
				return ours.Plan(now, in)
			})
		})
		w.run()
		defer w.stop()

		type end struct {
			after time.Duration
			err   error
		}
		ends := make(chan end, 3)
		for range 3 {
			go func() { after, err := w.bad(); ends <- end{after, err} }()
		}
		synctest.Wait()
		began := time.Now()
		for range 2 { // the other app starts one machine after the other meanwhile
			if _, err := w.get(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took > sec+2*tickEvery {
			t.Errorf("the other app's machine was there after %v, want its boot of 1 s", took)
		}
		for range 3 {
			e := <-ends
			wantRefusal(t, e.err, "its policy does not answer")
			if e.after < policyPatience || e.after > policyPatience+2*tickEvery {
				t.Errorf("refused after %v, want %v", e.after, policyPatience)
			}
		}
		if after, err := w.bad(); after > 2*tickEvery {
			t.Errorf("the next one was refused after %v, want at once", after)
		} else {
			wantRefusal(t, err, "its policy does not answer")
		}
		w.a.Histories() // comes back
		if told := w.noted("failed "); len(told) != 1 || told[0] != "bad: it has not come back for 1s" {
			t.Errorf("told %q", told)
		}

		close(blocked) // and all is well
		time.Sleep(2 * sec)
		if _, err := w.bad(); err != nil {
			t.Error(err)
		}
	})
}

func TestBlockedPolicyLeavesWhatRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		blocked := make(chan struct{})
		w := newWorld(t, balance.App{ID: "web", Autostart: true, Limits: balance.Limits{Hard: 1}}, Config{
			Policy: func(balance.AppID) policy.Policy {
				return policyFunc(func(time.Time, policy.Input) policy.Decision { <-blocked; return policy.Decision{} })
			},
		}, boot{}, boot{})
		defer close(blocked)
		w.run()
		defer w.stop()
		g := w.fleet.Gate("web", canonical("web", 2)[0])
		token, _ := g.Start(0)
		g.Ready(token)
		first := make(chan error, 1)
		go func() { _, err := w.get(t.Context(), 4*sec); first <- err }()
		synctest.Wait()
		if _, err := w.get(t.Context(), 0); err != nil { // waits for the slot, longer than for the policy
			t.Error(err)
		}
		if err := <-first; err != nil {
			t.Error(err)
		}
	})
}

func TestPanickingPolicyStopsItsAppOnly(t *testing.T) {
	for name, make := range map[string]func() policy.Policy{
		"Plan": func() policy.Policy {
			return policyFunc(func(time.Time, policy.Input) policy.Decision { panic("bug") })
		},
		"made": func() policy.Policy { panic("bug") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := twoApps(t, make)
				w.run()
				defer w.stop()
				after, err := w.bad()
				wantRefusal(t, err, "its policy fails")
				if strings.Contains(err.Error(), "bug") {
					t.Errorf("%v: clients need not know how", err)
				}
				if after > policyPatience+2*tickEvery {
					t.Errorf("refused after %v", after)
				}
				told := w.noted("failed ")
				if len(told) == 0 {
					t.Error("nobody is told")
				}
				for _, e := range told {
					if !strings.HasPrefix(e, "bad: ") || !strings.Contains(e, "bug") {
						t.Errorf("told of %s", e)
					}
				}
				if _, err := w.get(t.Context(), 0); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
