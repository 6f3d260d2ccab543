package policy

import (
	"slices"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/google/go-cmp/cmp"
)

// Whatever a policy says, a decision that breaks a bound is refused, with the bound, and machines
// that a bound keeps are recalled.
func TestBounds(t *testing.T) {
	stop := balance.App{ID: "web", Autostop: balance.AutostopStop}
	app := func(edit func(*balance.App)) balance.App { a := stop; edit(&a); return a }
	min := func(all, region int) balance.App {
		return app(func(a *balance.App) { a.Min, a.MinPerRegion = all, region })
	}
	m1 := func(edit func(*Seen)) func(*Situation) { return func(s *Situation) { edit(&s.Machines[0]) } }
	spare := func(ids ...balance.MachineID) (ds []Decision) {
		for _, id := range ids {
			ds = append(ds, Decision{Machine: id, Verdict: VerdictSpare})
		}
		return ds
	}
	const other = "by a policy that says no more"
	for _, c := range []struct {
		name    string
		app     balance.App
		n       int
		do      func(*Situation)
		says    []Decision
		want    string // the decisions that are carried out
		refused []string
	}{
		{"nothing stands against it", stop, 2, nil, spare("m1"), "spare m1: " + other, nil},
		{"a reason of its own", stop, 2, nil, []Decision{{Machine: "m1", Verdict: VerdictSpare, Text: "so"}}, "spare m1: so", nil},
		{"a rule for something else is no reason", stop, 2, nil, []Decision{{Machine: "m1", Verdict: VerdictSpare, Rule: ruleBusy}}, "spare m1: " + other, nil},
		{"autostop is off", balance.App{ID: "web"}, 2, nil, spare("m1"), "", []string{"m1: autostop is off"}},
		{"requests wait", stop, 2, func(s *Situation) { s.Parked = 3 }, spare("m1"), "", []string{"m1: 3 requests parked"}},
		{"whether requests wait is not known", stop, 2, func(s *Situation) { s.Stale = true }, spare("m1"), "", []string{"m1: what was last reported is too old"}},
		{"no such machine", stop, 2, nil, spare("ghost"), "", []string{"ghost: it is no machine of the app"}},
		{"another node's", stop, 2, m1(func(m *Seen) { m.Own = false }), spare("m1"), "", []string{"m1: it is not this node's"}},
		{"it starts", stop, 2, m1(func(m *Seen) { m.State = balance.StateStarting }), spare("m1"), "", []string{"m1: it is starting"}},
		{"it has stopped", stop, 2, m1(func(m *Seen) { m.State = balance.StateStopped }), spare("m1"), "", []string{"m1: it is stopped"}},
		{"a hard cordon", stop, 2, m1(func(m *Seen) { m.Hard = true }), spare("m1"), "", []string{"m1: it is hard-cordoned"}},
		{"it has been told", stop, 2, m1(func(m *Seen) { m.Leaving = true }), spare("m1"), "", []string{"m1: it is on its way already"}},
		{"twice in one answer", stop, 2, nil, spare("m1", "m1"), "spare m1: " + other, []string{"m1: it is on its way already"}},
		{"long connections", stop, 2, m1(func(m *Seen) { m.Busy, m.Open = true, balance.ClassWebSocket }), spare("m1"), "", []string{"m1: it has long connections: websocket"}},
		{"it works on something", stop, 2, m1(func(m *Seen) { m.Busy = true }), spare("m1"), "", []string{"m1: it says that it is busy"}},
		{"back-off", stop, 2, m1(func(m *Seen) { m.Veto = true }), spare("m1"), "", []string{"m1: it was needed a moment ago"}},
		{"back-off, and the app is idle", stop, 2, m1(func(m *Seen) { m.Veto = true }), []Decision{{Machine: "m1", Verdict: VerdictSpare, Rule: ruleKeepAlive, Idle: true}}, "spare m1: keep-alive 0s over: no request since 0s", nil},
		{"back-off, and idle is what the policy says", stop, 2, all(load(0, 1), m1(func(m *Seen) { m.Veto = true })), []Decision{{Machine: "m1", Verdict: VerdictSpare, Rule: ruleKeepAlive, Idle: true}}, "", []string{"m1: it was needed a moment ago"}},
		{"a load of the region is not known", stop, 2, func(s *Situation) { s.Machines[1].Own, s.Machines[1].Stale = false, true }, spare("m1"), "", []string{"m1: what others report of its region is too old"}},
		{"of another region", stop, 2, func(s *Situation) {
			s.Machines[1].Own, s.Machines[1].Stale, s.Machines[1].Region = false, true, "hkg"
		}, spare("m1"), "spare m1: " + other, nil},
		{"all are at the soft limit", stop, 2, load(10, 12), spare("m1"), "", []string{"m1: every machine of its region is at its soft limit"}},
		{"but one", stop, 2, load(10, 9), spare("m1"), "spare m1: " + other, nil},
		{"what leaves is no room", stop, 3, all(load(10, 10, 0), leave("m3")), spare("m1"), "", []string{"m1: every machine of its region is at its soft limit"}},
		{"the minimum", min(1, 0), 3, nil, spare("m3", "m2", "m1"), "spare m3: " + other + "; spare m2: " + other, []string{"m1: the minimum keeps it"}},
		{"the first of the order are the minimum's", min(2, 0), 3, nil, spare("m1", "m2"), "", []string{"m1: the minimum keeps it", "m2: the minimum keeps it"}},
		{"the minimum of a region", min(0, 1), 3, func(s *Situation) { s.Machines[2].Region = "hkg" }, spare("m3", "m2", "m1"), "spare m2: " + other, []string{"m3: the minimum keeps it", "m1: the minimum keeps it"}},
		{"starting ones count", min(1, 0), 2, m1(func(m *Seen) { m.State = balance.StateStarting }), spare("m2"), "spare m2: " + other, nil},
		{"those that leave do not", min(2, 0), 3, leave("m1"), spare("m3"), "", []string{"m3: the minimum keeps it"}},
		{"a recall", stop, 2, leave("m1"), []Decision{{Machine: "m1", Verdict: VerdictRecall, Text: "so"}}, "recall m1: so", nil},
		{"a recall of what stays", stop, 2, nil, []Decision{{Machine: "m1", Verdict: VerdictRecall}, {Machine: "ghost", Verdict: VerdictRecall}}, "", nil},
		{"spared and recalled in one answer", stop, 2, nil, append(spare("m1"), Decision{Machine: "m1", Verdict: VerdictRecall}), "spare m1: " + other, nil},
		{"what leaves is recalled when autostop is turned off", balance.App{ID: "web"}, 2, leave("m2"), nil, "recall m2: autostop is off", nil},
		{"when requests wait", stop, 2, all(leave("m1"), leave("m2"), func(s *Situation) { s.Parked = 1 }), []Decision{{Machine: "m2", Verdict: VerdictRecall, Text: "so"}}, "recall m2: so; recall m1: 1 request parked", nil},
		{"when the minimum was raised", min(1, 0), 2, all(leave("m1"), leave("m2")), nil, "recall m1: minimum: 0 machines running", nil},
		{"in its region", min(0, 1), 2, leave("m2"), nil, "", nil},
		{"not when a stopped one is short", min(2, 0), 2, m1(func(m *Seen) { m.State = balance.StateStopped }), nil, "", nil},
		{"a hold is passed on", stop, 2, nil, []Decision{{Verdict: VerdictHold, Text: "so"}}, "hold: so", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := Situation{App: c.app, Machines: machines(10, c.n)}
			if c.do != nil {
				c.do(&s)
			}
			was := slices.Clone(s.Machines)
			b := &Bounded{Policy: policyFunc(func(_ time.Time, s Situation) []Decision {
				for i := range s.Machines { // the policy may do this
					s.Machines[i] = Seen{
						ID: s.Machines[i].ID, Own: true, State: balance.StateStarted,
						Limits: balance.Limits{Soft: 1000},
					}
				}
				slices.Reverse(s.Machines)
				return c.says
			})}
			if got := words(b.Decide(time.Unix(0, 0), s)); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			var refused []string
			for _, d := range b.Refused() {
				refused = append(refused, string(d.Machine)+": "+d.Bound)
			}
			if d := cmp.Diff(c.refused, refused); d != "" {
				t.Errorf("refused (-want +got):\n%s", d)
			}
			for i, d := range b.out {
				if m := s.index(d.Machine); m >= 0 && (d.App != "web" || d.Region != s.Machines[m].Region) {
					t.Errorf("decision %d is of app %q and region %q: %+v", i, d.App, d.Region, d)
				}
			}
			if !slices.Equal(was, s.Machines) {
				t.Error("the rows were changed")
			}
		})
	}
}

// policyFunc is a policy without a memory.
type policyFunc func(now time.Time, s Situation) []Decision

func (f policyFunc) Decide(now time.Time, s Situation) []Decision { return f(now, s) }
