package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/boots"
	"github.com/ebbkit/ebb/balance"
	"github.com/google/go-cmp/cmp"
)

const sec = time.Second

var t0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// taken returns the boots that b remembers, oldest first.
func taken(b boots.Boots) []time.Duration {
	var j struct {
		Last []time.Duration `json:"lastNs"`
	}
	text, err := json.Marshal(b)
	if err == nil {
		err = json.Unmarshal(text, &j)
	}
	if err != nil {
		panic(err)
	}
	return j.Last
}

// story is a planner and the rows that it sees. Machines are called a, b, c... in canonical order
// within their region.
type story struct {
	t        *testing.T
	p        *Planner
	app      balance.App
	regions  []string
	rows     []*balance.Machine
	names    map[balance.MachineID]string
	others   []int
	rtt      []time.Duration
	spare    int
	unserved bool
	outliers []balance.MachineID
	policy   Policy // instead of p
	answers  []Answer
	wants    []*balance.Target
	last     Decision
}

// newStory makes machines from a text such as "nrt: a b c, hkg: d e".
func newStory(t *testing.T, app balance.App, machines string) *story {
	app.ID, app.Autostart = "web", true
	s := &story{t: t, p: new(Planner), app: app, names: map[balance.MachineID]string{}}
	next := 0
	for part := range strings.SplitSeq(machines, ", ") {
		region, list, _ := strings.Cut(part, ": ")
		s.regions = append(s.regions, region)
		names := strings.Fields(list)
		ids := make([]balance.MachineID, len(names))
		for i := range ids {
			ids[i] = balance.MachineID(fmt.Sprintf("m%d", next))
			next++
		}
		sortCanonical("web", ids)
		for i, id := range ids {
			s.names[id] = names[i]
			s.rows = append(s.rows, &balance.Machine{ID: id, App: "web", Region: region})
		}
	}
	return s
}

func (s *story) row(name string) *balance.Machine {
	for _, m := range s.rows {
		if s.names[m.ID] == name {
			return m
		}
	}
	s.t.Fatalf("no machine %q in this story", name)
	return nil
}

// replace replaces a row by its newer version.
func (s *story) replace(m *balance.Machine) {
	for i := range s.rows {
		if s.rows[i].ID == m.ID {
			s.rows[i] = m
		}
	}
}

// see changes rows by a text such as "a starting, b failed, c cordoned": a start begins a new
// epoch.
func (s *story) see(what string) {
	for part := range strings.SplitSeq(what, ", ") {
		name, state, _ := strings.Cut(part, " ")
		if name == "" {
			continue
		}
		// Rows are immutable: those that a decision has seen stay as they were.
		old := s.row(name)
		m := new(*old)
		s.replace(m)
		switch state {
		case "starting":
			m.State, m.Epoch = balance.StateStarting, m.Epoch+1
		case "started":
			if m.State != balance.StateStarting && m.State != balance.StateStopping {
				m.Epoch++ // the whole boot fell between two looks
			}
			m.State, m.Fault = balance.StateStarted, ""
		case "failed":
			if m.State == balance.StateStopped || m.State == balance.StateFailed {
				m.Epoch++
			}
			m.State, m.Fault = balance.StateFailed, "broken"
		case "stopping":
			m.State, m.Cordon = balance.StateStopping, balance.CordonNone
		case "stopped":
			m.State = balance.StateStopped
		case "suspended":
			m.State = balance.StateSuspended
		case "gone":
			m.State = balance.StateGone
		case "cordoned":
			m.Cordon = balance.CordonSoft
			m.CordonGen++
		case "uncordoned":
			m.Cordon = balance.CordonNone
		case "out":
			m.Cordon = balance.CordonHard
		case "failing":
			m.Health, m.Recent = balance.HealthFailing, false
		case "coming":
			m.Health, m.Recent = balance.HealthFailing, true
		case "passing":
			m.Health, m.Recent = balance.HealthPassing, false
		default:
			s.t.Fatalf("unknown state %q", state)
		}
	}
}

// plan decides and returns what was decided as a text: "recall a; start b c; refuse: why".
func (s *story) plan(at time.Duration, inFlight, parked int) string {
	var p Policy = s.p
	if s.policy != nil {
		p = s.policy
	}
	answers := s.answers
	s.answers = nil
	s.app.Spare = s.spare
	s.last = p.Plan(t0.Add(at), Input{App: s.app, Machines: s.rows, Regions: s.regions, InFlight: inFlight, Parked: parked, Unserved: s.unserved, Outliers: s.outliers, Others: s.others, RTT: s.rtt, Forced: s.wants, Answers: answers})
	var parts []string
	list := func(what string, ms []balance.Machine) {
		if len(ms) == 0 {
			return
		}
		for _, m := range ms {
			what += " " + s.names[m.ID]
		}
		parts = append(parts, what)
	}
	list("recall", s.last.Recall)
	list("start", s.last.Start)
	if s.last.Refuse != "" {
		why := s.last.Refuse
		for id, name := range s.names {
			why = strings.ReplaceAll(why, string(id)+":", name+":")
		}
		parts = append(parts, "refuse: "+why)
	}
	return strings.Join(parts, "; ")
}

// step is one decision. Its starts are accepted, unless refused, err or later says otherwise.
type step struct {
	at       time.Duration
	see      string
	inFlight int
	parked   int
	unserved bool   // a request went to a failing machine
	outliers string // by name
	do       string
	refused  bool  // the owner refuses the start
	err      error // the owner cannot be reached
	later    bool  // the answer is still outstanding
}

func TestPlanner(t *testing.T) {
	soft := func(n int) balance.App { return balance.App{Limits: balance.Limits{Soft: n}} }
	for _, tc := range []struct {
		name     string
		app      balance.App
		machines string
		hedge    bool
		spare    int
		fresh    bool // the planner has seen nothing before the first step
		others   []int
		wants    []*balance.Target
		steps    []step
	}{
		{name: "nothing wanted, nothing done", machines: "nrt: a b", steps: []step{{do: ""}}},
		{name: "the first of the order wakes", machines: "nrt: a b c", steps: []step{{parked: 1, do: "start a"}}},
		{name: "no limit: one machine is enough for any demand", machines: "nrt: a b", steps: []step{{parked: 1000, do: "start a"}}},
		{name: "only a hard limit: that is the capacity", app: balance.App{Limits: balance.Limits{Hard: 20}}, machines: "nrt: a b c", steps: []step{{parked: 21, do: "start a b"}}},
		{name: "as many as the demand fills", app: soft(10), machines: "nrt: a b c d", steps: []step{{parked: 10, do: "start a"}, {parked: 30, do: "start b c"}, {parked: 31, do: "start d"}}},
		{name: "in flight and parked count together", app: soft(10), machines: "nrt: a b c", steps: []step{
			{see: "a started", inFlight: 10, do: ""}, {inFlight: 10, parked: 1, do: "start b"}, {inFlight: 20, parked: 1, do: "start c"}}},
		{name: "more demand than machines", app: soft(1), machines: "nrt: a b", steps: []step{{parked: 9, do: "start a b"}, {see: "a starting, b starting", parked: 9}}},

		// Starts in flight count.
		{name: "a start in flight counts however long it takes", machines: "nrt: a b", steps: []step{
			{parked: 1, do: "start a"}, {at: 1 * sec, see: "a starting", parked: 50}, {at: 100 * sec, parked: 50}, {at: 1000 * sec, parked: 50}, {at: 3000 * sec, see: "a started", inFlight: 50}}},
		{name: "an accepted start counts before its row tells", machines: "nrt: a b", steps: []step{{parked: 1, do: "start a"}, {at: sec, parked: 1}, {at: 4 * sec, parked: 1}}},
		{name: "an unanswered start counts", machines: "nrt: a b", steps: []step{{parked: 1, do: "start a", later: true}, {at: 9 * sec, parked: 1}}},
		{name: "an accepted start of which nothing is heard is asked for again", machines: "nrt: a b", steps: []step{{parked: 1, do: "start a"}, {at: 6 * sec, parked: 1, do: "start a"}}},
		{name: "a start that somebody else asked for counts", machines: "nrt: a b", steps: []step{{see: "b starting", parked: 1, do: ""}}},
		{name: "a machine that runs and is about to be ready counts", machines: "nrt: a b", steps: []step{{see: "a started, a coming", parked: 1, do: ""}}},
		{name: "one that is broken does not", machines: "nrt: a b", steps: []step{{see: "a started, a failing", inFlight: 1, do: "start b"}}},
		{name: "owner gone while starting: the credit is gone", machines: "nrt: a b", steps: []step{{parked: 1, do: "start a"}, {see: "a starting", parked: 1}, {see: "a gone", parked: 1, do: "start b"}}},
		{name: "owner gone before it has answered, and back again", machines: "nrt: a b", steps: []step{
			{parked: 1, do: "start a", later: true}, {see: "a gone", parked: 1, do: "start b"}, {at: sec, see: "b starting, a stopped", parked: 1}, {at: 2 * sec, see: "b gone", parked: 1, do: "start a"}}},
		{name: "all owners gone", machines: "nrt: a b", steps: []step{{see: "a gone, b gone", parked: 1, do: "refuse: none of its 2 machines can be started: the nodes of 2 are gone"}}},

		{name: "a request that a broken machine has served already is demand", machines: "nrt: a b", steps: []step{
			{see: "a started, a failing", unserved: true, do: "start b"}, {at: sec, see: "b starting", unserved: true}, {at: 9 * sec, see: "b started"}}},
		{name: "an outlier is no capacity", app: soft(1), machines: "nrt: a b c", steps: []step{
			{see: "a started, b started", inFlight: 2, do: ""}, {inFlight: 2, outliers: "b", do: "start c"}, {at: sec, see: "c starting", inFlight: 2, outliers: "b"}}},
		{name: "three run and all are broken: it is the app, and one more is started only for what waits", app: soft(1), machines: "nrt: a b c d e", steps: []step{
			{see: "a started, a failing, b started, b failing, c started, c failing", inFlight: 9, unserved: true}, {inFlight: 9, parked: 1, do: "start d e"}}},

		// Recall.
		{name: "recall comes before start", app: soft(10), machines: "nrt: a b c", steps: []step{{see: "b started, b cordoned", parked: 11, do: "recall b; start a"}}},
		{name: "a recall counts until its row tells, and is repeated", machines: "nrt: a", steps: []step{
			{see: "a started, a cordoned", inFlight: 1, do: "recall a"}, {at: sec, inFlight: 1}, {at: 6 * sec, inFlight: 1, do: "recall a"}, {at: 7 * sec, see: "a uncordoned", inFlight: 1}, {at: 8 * sec, see: "a cordoned", inFlight: 1, do: "recall a"}}},
		{name: "a recall that fails: something else, and another try later", machines: "nrt: a b", steps: []step{
			{see: "a started, a cordoned", inFlight: 1, do: "recall a", err: errors.New("too late")}, {inFlight: 1, do: "start b"}, {at: sec, see: "a stopping", parked: 1}}},
		{name: "a recall that fails, and nothing else", machines: "nrt: a", steps: []step{
			{see: "a started, a cordoned", inFlight: 1, do: "recall a", err: errors.New("no route")}, {inFlight: 1}, {at: sec, inFlight: 1, do: "recall a"}}},
		{name: "the hard-cordoned are left alone", machines: "nrt: a b", steps: []step{{see: "a out, b started, b out", parked: 1, do: "refuse: none of its 2 machines can be started"}}},

		// Bounds.
		{name: "a maximum", app: balance.App{Max: 2, Limits: balance.Limits{Soft: 1}}, machines: "nrt: a b c", steps: []step{{parked: 9, do: "start a b"}, {see: "a starting, b started", parked: 9}}},
		{name: "a maximum counts all that run", app: balance.App{Max: 1}, machines: "nrt: a, hkg: b", steps: []step{{see: "b started, b failing", parked: 1, do: ""}}},
		{name: "a minimum is kept without demand", app: balance.App{Min: 2}, machines: "nrt: a b c", steps: []step{{do: "start a b"}, {see: "a started, b started"}, {at: sec, see: "b failed", do: "start b"}}},
		{name: "a minimum recalls first", app: balance.App{Min: 1}, machines: "nrt: a b", steps: []step{{see: "b started, b cordoned", do: "recall b"}}},
		{name: "a minimum in each region", app: balance.App{MinPerRegion: 1}, machines: "nrt: a b, hkg: c d", steps: []step{{do: "start c a"}}},
		{name: "demand counts towards the minimum", app: balance.App{Min: 2, Limits: balance.Limits{Soft: 10}}, machines: "nrt: a b c", steps: []step{{parked: 15, do: "start a b"}}},

		// Regions.
		{name: "home first", machines: "nrt: a, hkg: b", steps: []step{{parked: 1, do: "start a"}}},
		{name: "what home cannot start overflows", app: soft(10), machines: "nrt: a, hkg: b c", steps: []step{{parked: 25, do: "start a b c"}}},
		{name: "home never starves because others run elsewhere", app: soft(10), machines: "nrt: a, hkg: b", steps: []step{{see: "b started", inFlight: 1, do: "start a"}}},
		{name: "demand of others with the same home", app: soft(10), machines: "nrt: a b c", others: []int{15}, steps: []step{{parked: 1, do: "start a b"}}},
		{name: "demand of others with their home there comes first", app: soft(10), machines: "nrt: a, hkg: b c d", others: []int{0, 8}, steps: []step{{see: "a started, b started", inFlight: 12, do: ""}, {inFlight: 13, do: "start c"}}},
		{name: "demand of others that does not fit there is not this node's to cover", app: soft(10), machines: "nrt: a, hkg: b c d", others: []int{0, 25}, steps: []step{
			{see: "a started, b started", inFlight: 20, do: "start c"}, {see: "c started", inFlight: 20, do: "start d"}}},

		// Failures.
		{name: "the next one when the first fails", machines: "nrt: a b c", steps: []step{{parked: 1, do: "start a"}, {at: 5 * sec, see: "a failed", parked: 1, do: "start b"}}},
		{name: "a machine that failed has to wait", machines: "nrt: a b", app: soft(1), steps: []step{
			{parked: 1, do: "start a"}, {at: sec, see: "a failed", parked: 1, do: "start b"}, {at: 1500 * time.Millisecond, see: "b starting", parked: 2}, {at: 3 * sec, parked: 2, do: "start a"}}},
		{name: "nothing left: refused, then one probe per interval", machines: "nrt: a", steps: []step{
			{parked: 1, do: "start a"}, {at: sec, see: "a failed", parked: 1, do: "refuse: machine a: broken"}, {at: 1500 * time.Millisecond, parked: 1, do: "refuse: machine a: broken"},
			{at: 3 * sec, parked: 1, do: "start a"}, {at: 4 * sec, see: "a starting", parked: 1}, {at: 5 * sec, see: "a failed", parked: 1, do: "refuse: machine a: broken"},
			{at: 6500 * time.Millisecond, parked: 1, do: "refuse: machine a: broken"}, {at: 9 * sec, parked: 1, do: "start a"}, {at: 10 * sec, see: "a starting", parked: 1}, {at: 11 * sec, see: "a started", inFlight: 1},
			{at: 90 * sec, see: "a stopped"}, {at: 91 * sec, parked: 1, do: "start a"}}},
		{name: "three boots in a row open the breaker", app: soft(1), machines: "nrt: a b c d e", steps: []step{
			{parked: 3, do: "start a b c"}, {at: sec, see: "a failed, b failed, c failed", parked: 3, do: "refuse: machine c: broken"}, {at: 3 * sec, parked: 3, do: "start d"}, {at: 4 * sec, see: "d starting", parked: 3}, {at: 5 * sec, see: "d started", inFlight: 3, do: "start a b"}}},
		{name: "while something serves nobody is refused", app: soft(1), machines: "nrt: a b", steps: []step{
			{see: "a started", inFlight: 1, parked: 1, do: "start b"}, {at: sec, see: "b failed", inFlight: 1, parked: 1}, {at: 3 * sec, inFlight: 1, parked: 1, do: "start b"}}},
		{name: "a first crash is answered at once, the next ones later", machines: "nrt: a", steps: []step{
			{see: "a started", inFlight: 1}, {at: sec, see: "a failed", parked: 1, do: "start a"}, {at: 2 * sec, see: "a started", inFlight: 1}, {at: 3 * sec, see: "a failed", parked: 1}, {at: 4500 * time.Millisecond, parked: 1, do: "start a"}}},
		{name: "crashes do not open the breaker", machines: "nrt: a b c d e", steps: []step{
			{see: "a started", inFlight: 1}, {at: 1 * sec, see: "a failed", parked: 1, do: "start a"}, {at: 2 * sec, see: "a started", inFlight: 1}, {at: 3 * sec, see: "a failed", parked: 1, do: "start b"}, {at: 4 * sec, see: "b started", inFlight: 1},
			{at: 5 * sec, see: "b failed", parked: 1, do: "start a"}}},
		{name: "a machine that ran for long may start again at once", machines: "nrt: a", steps: []step{
			{see: "a started", inFlight: 1}, {at: sec, see: "a failed", parked: 1, do: "start a"}, {at: 2 * sec, see: "a started", inFlight: 1}, {at: 90 * sec, see: "a failed", parked: 1, do: "start a"}}},
		{name: "killed again and again, each time after ten boots: it starts again at once", machines: "nrt: a", steps: []step{
			{parked: 1, do: "start a"}, {see: "a starting", parked: 1}, {at: 300 * time.Millisecond, see: "a started", inFlight: 1},
			{at: 3400 * time.Millisecond, see: "a failed", parked: 1, do: "start a"}, {at: 3400 * time.Millisecond, see: "a starting", parked: 1}, {at: 3700 * time.Millisecond, see: "a started", inFlight: 1},
			{at: 7 * sec, see: "a failed", parked: 1, do: "start a"}, {at: 7 * sec, see: "a starting", parked: 1}, {at: 7300 * time.Millisecond, see: "a started", inFlight: 1}, {at: 11 * sec, see: "a failed", parked: 1, do: "start a"}}},
		{name: "ended again and again before that: later and later", machines: "nrt: a", steps: []step{
			{parked: 1, do: "start a"}, {see: "a starting", parked: 1}, {at: 300 * time.Millisecond, see: "a started", inFlight: 1},
			{at: 3200 * time.Millisecond, see: "a failed", parked: 1, do: "start a"}, {at: 3200 * time.Millisecond, see: "a starting", parked: 1}, {at: 3500 * time.Millisecond, see: "a started", inFlight: 1},
			{at: 6 * sec, see: "a failed", parked: 1}, {at: 8 * sec, parked: 1, do: "start a"}}},
		{name: "owner out of reach: the next machine, and the app is not to blame", machines: "nrt: a b c d e f", steps: []step{
			{parked: 1, do: "start a", err: errors.New("no route")}, {parked: 1, do: "start b", err: errors.New("no route")}, {parked: 1, do: "start c", err: errors.New("no route")}, {parked: 1, do: "start d"}}},
		{name: "old picture: look again", machines: "nrt: a b", steps: []step{
			{parked: 1, do: "start a", refused: true}, {parked: 1, do: "start b"}}},
		{name: "old picture, nothing else", machines: "nrt: a", steps: []step{
			{parked: 1, do: "start a", refused: true}, {parked: 1}, {at: sec, parked: 1, do: "start a"}}},
		{name: "old news of a failure are nothing new", fresh: true, machines: "nrt: a", steps: []step{{see: "a failed", parked: 1, do: "start a"}}},

		// Stops under way.
		{name: "what has stopped for a while starts again only when there is no other", app: soft(1), machines: "nrt: a b", steps: []step{
			{see: "a started, a stopping"}, {at: 6 * sec, parked: 1, do: "start b"}, {at: 7 * sec, see: "b starting", parked: 2, do: "start a"}, {at: 20 * sec, parked: 2}, {at: 21 * sec, see: "a stopped", parked: 2}, {at: 22 * sec, see: "a starting", parked: 2}}},
		{name: "what has just begun to stop keeps its place: others know already that it has stopped", app: soft(1), machines: "nrt: a b", steps: []step{
			{see: "a started, a cordoned"}, {see: "a stopping", parked: 1, do: "start a"}, {at: 900 * time.Millisecond, parked: 1}, {at: 900 * time.Millisecond, see: "a stopped", parked: 1}, {at: sec, see: "a starting", parked: 1}}},
		{name: "a stop that takes longer than a boot frees the credit", app: balance.App{BootHint: 4 * sec, Limits: balance.Limits{Soft: 1}}, machines: "nrt: a b c", steps: []step{
			{see: "a started, a stopping", parked: 1, do: "start a"}, {at: 4 * sec, parked: 1}, {at: 4100 * time.Millisecond, parked: 1, do: "start b"}, {at: 5 * sec, see: "b starting", parked: 1}, {at: 60 * sec, parked: 1}}},
		{name: "what is known to stop slowly is asked last", app: balance.App{BootHint: 4 * sec, Limits: balance.Limits{Soft: 1}}, machines: "nrt: a b", steps: []step{
			{see: "a started"}, {see: "a stopping"}, {at: 8 * sec, see: "a stopped"}, {at: 9 * sec, see: "a started"}, {at: 20 * sec, see: "a stopping"},
			{at: 21 * sec, parked: 1, do: "start b"}, {at: 22 * sec, see: "b starting", parked: 2, do: "start a"}, {at: 23 * sec, parked: 2}, {at: 28 * sec, see: "a stopped", parked: 2}, {at: 28 * sec, see: "a starting", parked: 2}}},
		{name: "and in its place again when its stop is nearly over", app: balance.App{BootHint: 4 * sec, Limits: balance.Limits{Soft: 1}}, machines: "nrt: a b", steps: []step{
			{see: "a started"}, {see: "a stopping"}, {at: 8 * sec, see: "a stopped"}, {at: 9 * sec, see: "a started"}, {at: 20 * sec, see: "a stopping"}, {at: 24 * sec, parked: 1, do: "start a"}, {at: 32 * sec, parked: 1}, {at: 33 * sec, parked: 1, do: "start b"}}},
		{name: "what is known to stop quickly is waited for where boots are slow", app: balance.App{BootHint: 45 * sec, Limits: balance.Limits{Soft: 1}}, machines: "nrt: a b", steps: []step{
			{see: "a started"}, {see: "a stopping"}, {at: 3 * sec, see: "a stopped"}, {at: 9 * sec, see: "a started"}, {at: 20 * sec, see: "a stopping"}, {at: 20 * sec, parked: 1, do: "start a"}, {at: 60 * sec, parked: 1}}},
		{name: "a stop of which the beginning was not seen teaches nothing", app: balance.App{BootHint: 4 * sec, Limits: balance.Limits{Soft: 1}}, machines: "nrt: a b", fresh: true, steps: []step{
			{see: "a started, a stopping"}, {at: 60 * sec, see: "a stopped"}, {at: 70 * sec, see: "a started"}, {at: 80 * sec, see: "a stopping"}, {at: 81 * sec, parked: 1, do: "start a"}}},
		{name: "a start that its owner was to remember, and has not", app: soft(1), machines: "nrt: a b", steps: []step{
			{see: "a started, a stopping", parked: 1, do: "start a"}, {at: 200 * time.Millisecond, see: "a stopped", parked: 1}, {at: 1100 * time.Millisecond, parked: 1}, {at: 1200 * time.Millisecond, parked: 1, do: "start a"}}},
		{name: "a start that its owner does not remember", app: soft(1), machines: "nrt: a", steps: []step{
			{see: "a started, a stopping", parked: 1, do: "start a", refused: true}, {at: 100 * time.Millisecond, parked: 1}, {at: sec, parked: 1, do: "start a", refused: true}, {at: 3 * sec, see: "a stopped", parked: 1, do: "start a"}}},
		{name: "ready, and gone with status 0: at once, then later and later", machines: "nrt: a", steps: []step{
			{parked: 1, do: "start a"}, {see: "a starting", parked: 1}, {at: sec, see: "a started", inFlight: 1}, {at: 2 * sec, see: "a stopped", parked: 1, do: "start a"},
			{at: 3 * sec, see: "a starting", parked: 1}, {at: 4 * sec, see: "a started", inFlight: 1}, {at: 5 * sec, see: "a stopped", parked: 1}, {at: 5500 * time.Millisecond, parked: 1}, {at: 6500 * time.Millisecond, parked: 1, do: "start a"}}},
		{name: "stopped by somebody: that is no crash", machines: "nrt: a", steps: []step{
			{see: "a started", inFlight: 1}, {at: sec, see: "a cordoned"}, {at: sec, see: "a uncordoned, a stopped", parked: 1, do: "start a"}, {at: 2 * sec, see: "a started", inFlight: 1}, {at: 3 * sec, see: "a cordoned"}, {at: 3 * sec, see: "a uncordoned, a stopped", parked: 1, do: "start a"}}},
		{name: "what works a while and ends by itself is no crash", machines: "nrt: a", steps: []step{
			{see: "a started", inFlight: 1}, {at: 5 * sec, see: "a stopped", parked: 1, do: "start a"}, {at: 6 * sec, see: "a started", inFlight: 1}, {at: 10 * sec, see: "a stopped", parked: 1, do: "start a"}}},

		// Spare machines.
		{name: "a spare beside what the demand needs", app: soft(10), spare: 1, machines: "nrt: a b c d", steps: []step{
			{}, {parked: 1, do: "start a b"}, {at: sec, see: "a started, b started", inFlight: 11, do: "start c"}, {at: 2 * sec, see: "c starting", inFlight: 11}, {at: 3 * sec, see: "c started"}}},
		{name: "a spare is recalled first, and within the maximum", app: balance.App{Max: 2, Limits: balance.Limits{Soft: 10}}, spare: 3, machines: "nrt: a b c d", steps: []step{
			{see: "a started, b started, b cordoned", inFlight: 1, do: "recall b"}, {see: "b uncordoned", inFlight: 1}}},
		{name: "a spare where the demand overflows to", app: soft(10), spare: 1, machines: "nrt: a, hkg: b c d", steps: []step{{parked: 11, do: "start a b c"}, {see: "a started, b started, c started", inFlight: 11}}},

		// Suspicion.
		{name: "hedge: one extra when all are suspect and nothing serves", hedge: true, app: balance.App{BootHint: 2 * sec}, machines: "nrt: a b c", steps: []step{
			{parked: 1, do: "start a"}, {see: "a starting", parked: 1}, {at: 3900 * time.Millisecond, parked: 1}, {at: 4 * sec, parked: 1, do: "start b"}, {at: 5 * sec, see: "b starting", parked: 1}, {at: 100 * sec, parked: 1}}},
		{name: "known never to become healthy: one extra without hedging, and no more", machines: "nrt: a b c", steps: []step{
			{parked: 1, do: "start a"}, {see: "a starting", parked: 1}, {at: sec, see: "a failing", parked: 1, do: "start b"}, {at: 2 * sec, see: "b starting", parked: 1}, {at: 3 * sec, see: "b failing", parked: 1}, {at: 300 * sec, parked: 1}}},
		{name: "checks of a starting machine that fail as expected say nothing", machines: "nrt: a b", steps: []step{
			{parked: 1, do: "start a"}, {see: "a starting, a coming", parked: 1}, {at: 60 * sec, parked: 1}}},
		{name: "no hedge while anything serves", hedge: true, app: balance.App{BootHint: sec, Limits: balance.Limits{Soft: 1}}, machines: "nrt: a b c", steps: []step{
			{see: "a started", inFlight: 1, parked: 1, do: "start b"}, {at: 60 * sec, see: "b starting", inFlight: 1, parked: 1}, {at: 600 * sec, inFlight: 1, parked: 1}}},

		// Machines that requests insist on.
		{name: "a machine that a request insists on", machines: "nrt: a b c", wants: []*balance.Target{{Machines: []balance.MachineID{"c"}}}, steps: []step{
			{see: "a started", parked: 1, do: "start c"}, {see: "c starting", parked: 1}}},
		{name: "a region that a request insists on", machines: "nrt: a b, hkg: d", wants: []*balance.Target{{Regions: []string{"hkg"}}}, steps: []step{
			{see: "a started", parked: 1, do: "start d"}}},

		{name: "a clock that goes back", machines: "nrt: a b", steps: []step{
			{at: 100 * sec, parked: 1, do: "start a"}, {at: 0, see: "a starting", parked: 1}, {at: -100 * sec, see: "a failed", parked: 1, do: "start b"}, {at: -99 * sec, see: "b started", inFlight: 1}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newStory(t, tc.app, tc.machines)
			s.p, s.others, s.spare = &Planner{Hedge: tc.hedge}, tc.others, tc.spare
			for _, w := range tc.wants { // by the machines' names in the story
				w := *w
				for i, name := range w.Machines {
					w.Machines[i] = s.row(string(name)).ID
				}
				s.wants = append(s.wants, &w)
			}
			if !tc.fresh {
				s.app.Autostart = false
				s.plan(0, 0, 0) // a first look at sleeping machines
				s.app.Autostart = true
			}
			s.play(tc.steps)
		})
	}
}

// play plays steps, and fails the test at the first that goes otherwise.
func (s *story) play(steps []step) {
	s.t.Helper()
	for i, st := range steps {
		s.see(st.see)
		s.unserved, s.outliers = st.unserved, nil
		for name := range strings.FieldsSeq(st.outliers) {
			s.outliers = append(s.outliers, s.row(name).ID)
		}
		if got := s.plan(st.at, st.inFlight, st.parked); got != st.do {
			s.t.Fatalf(
				"step %d at %v (%s), demand %d+%d: %q, want %q", i, st.at, st.see, st.inFlight, st.parked, got,
				st.do,
			)
		}
		for _, m := range s.last.Recall {
			s.p.recalled(t0.Add(st.at), m, st.err)
		}
		for _, m := range s.last.Start {
			switch {
			case st.later:
			case st.err != nil || st.refused:
				s.p.answered(t0.Add(st.at), m, balance.StartRefused, st.err)
			case m.State == balance.StateStopping:
				s.p.answered(t0.Add(st.at), m, balance.StartRemembered, nil)
			default:
				s.p.answered(t0.Add(st.at), m, balance.StartAccepted, nil)
			}
		}
	}
}

func TestPlannerReasons(t *testing.T) {
	s := newStory(t, balance.App{Limits: balance.Limits{Soft: 20}}, "nrt: a b c d")
	s.see("a started")
	s.plan(0, 20, 3)
	want := Decision{
		App: "web", Start: []balance.Machine{*s.row("b")}, Demand: 23, Want: 2, Have: 1,
		Reason: "demand 23, ready 1x20, starting 0", Wait: 195 * sec, Await: 195 * sec, Remaining: sec,
	}
	if diff := cmp.Diff(want, s.last, cmp.FilterPath(func(p cmp.Path) bool { return p.String() == "settled" }, cmp.Ignore())); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	s.see("b starting")
	s.plan(sec, 40, 3)
	if got, want := s.last.Reason, "demand 43, ready 1x20, starting 1"; got != want {
		t.Errorf("reason %q, want %q", got, want)
	}
	for _, tc := range []struct {
		app  balance.App
		see  string
		n    int
		want string
	}{
		{balance.App{}, "", 1, "demand 1, ready 0, starting 0"},
		{balance.App{Min: 2}, "a started", 0, "demand 0, minimum 2 of which 1 there"},
		{balance.App{MinPerRegion: 1}, "", 0, "demand 0, minimum in nrt 1 of which 0 there"},
		{balance.App{Min: 2}, "a started", 1, "demand 1, ready 1 without limit, starting 0, minimum 2 of which 1 there"},
	} {
		s := newStory(t, tc.app, "nrt: a b c d")
		s.see(tc.see)
		s.plan(0, tc.n, 0)
		if s.last.Reason != tc.want {
			t.Errorf("reason %q, want %q", s.last.Reason, tc.want)
		}
	}
	s = newStory(t, balance.App{Limits: balance.Limits{Soft: 20}}, "nrt: a b c d")
	s.row("b").Limits.Soft = 5
	s.see("a started, b started")
	s.plan(0, 30, 0)
	if got, want := s.last.Reason, "demand 30, ready 2 for 25, starting 0"; got != want {
		t.Errorf("reason %q, want %q", got, want)
	}
}

func TestPlannerLearnsBoots(t *testing.T) {
	s := newStory(t, balance.App{}, "nrt: a b c d")
	s.plan(0, 0, 0)
	s.see("a starting, b starting, c starting")
	s.plan(1*sec, 0, 1)
	s.see("a started, b failed")
	s.plan(6*sec, 0, 1)
	s.see("c stopped") // given up: the planner learns nothing from it
	s.plan(90*sec, 0, 0)
	s.see("d started") // its boot was not seen
	s.plan(91*sec, 0, 0)
	b := s.p.boots.All[boots.Cold]
	if len(taken(b)) != 1 || b.Longest() != 5*sec {
		t.Errorf("learned %d boots, the longest %v; want 1 of 5s", len(taken(b)), b.Longest())
	}
	s.see("a suspended")
	s.plan(92*sec, 0, 0)
	s.see("a starting")
	s.plan(100*sec, 0, 1)
	if s.last.Wait != 195*sec || s.last.Remaining != sec {
		t.Errorf(
			"wait %v, remaining %v of a first resume, want 195s and 1s", s.last.Wait, s.last.Remaining,
		)
	}
	s.see("a started")
	s.plan(101*sec, 0, 0)
	if b := s.p.boots.All[boots.Resume]; len(taken(b)) != 1 || b.Longest() != sec {
		t.Errorf("learned %d resumes, the longest %v; want 1 of 1s", len(taken(b)), b.Longest())
	}
	if b := s.p.boots.All[boots.Cold]; len(taken(b)) != 1 {
		t.Errorf("a resume was learned as a cold boot")
	}
}

func BenchmarkPlan(b *testing.B) {
	for _, n := range []int{10, 1000, 10_000} {
		for _, what := range []string{"nothing", "starts"} {
			b.Run(fmt.Sprintf("machines=%d/decides=%s", n, what), func(b *testing.B) {
				p := new(Planner)
				app := balance.App{ID: "web", Autostart: true, Limits: balance.Limits{Soft: 10}}
				var rows []*balance.Machine
				for i := range n {
					m := &balance.Machine{
						ID: balance.MachineID(fmt.Sprintf("m%05d", i)), App: "web",
						Region: []string{"hkg", "nrt", "fra"}[i%3],
					}
					if i%2 == 0 {
						m.State, m.Epoch = balance.StateStarted, 1
					}
					rows = append(rows, m)
				}
				in := Input{App: app, Machines: rows, Regions: []string{"nrt", "hkg", "fra"}, InFlight: n * 5}
				if what == "nothing" {
					in.InFlight = n
				}
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					// after a minute an unanswered start is asked for again
					d := p.Plan(t0.Add(time.Duration(i)*time.Minute), in)
					for _, m := range d.Start {
						p.answered(t0.Add(time.Duration(i)*time.Minute), m, balance.StartAccepted, nil)
					}
				}
			})
		}
	}
}

// An owner writes into the row of a starting machine that its checks pass, and that it is recent, a
// moment before the row says that it runs. A planner that looks in between does not take the boot
// for one that has not begun.
func TestTheRowOfAMachineThatIsAboutToRun(t *testing.T) {
	s := newStory(t, balance.App{}, "nrt: a")
	s.plan(0, 0, 1)
	s.see("a starting")
	s.plan(0, 0, 1)
	edit := func(change func(*balance.Machine)) {
		m := new(*s.row("a"))
		change(m)
		s.rows[0] = m
	}
	edit(func(m *balance.Machine) { m.Recent = true }) // it waits for its turn
	s.plan(5*sec, 0, 1)
	edit(func(m *balance.Machine) { m.Recent = false })
	s.plan(6*sec, 0, 1)
	edit(func(m *balance.Machine) { m.Health, m.Recent = balance.HealthPassing, true })
	s.plan(51*sec, 0, 1)
	edit(func(m *balance.Machine) { m.State = balance.StateStarted })
	s.plan(51*sec, 0, 1)
	if b := s.p.boots.All[boots.Cold]; b.Longest() != 45*sec {
		t.Errorf("learned a boot of %v, want 45s", b.Longest())
	}
}

func sortCanonical(app balance.AppID, ids []balance.MachineID) {
	slices.SortFunc(ids, func(a, b balance.MachineID) int {
		return (&balance.Machine{App: app, ID: a}).Compare(&balance.Machine{App: app, ID: b})
	})
}

func TestHistoryRoundTrip(t *testing.T) {
	s := newStory(t, balance.App{BootHint: 7 * sec}, "nrt: a b c d")
	s.plan(0, 0, 0)
	for i := range 40 {
		s.see("a starting")
		s.plan(time.Duration(100*i)*sec, 0, 1)
		s.see("a started")
		s.plan(time.Duration(100*i)*sec+time.Duration(i)*sec, 0, 1)
		s.see([]string{"a stopped", "a suspended"}[i%2])
		s.plan(time.Duration(100*i+90)*sec, 0, 0)
	}
	h := s.p.History()
	text, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	var back History
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	p := new(Planner)
	p.Restore(back)
	if diff := cmp.Diff(h.learned, p.History().learned, cmp.Comparer(func(a, b boots.Boots) bool {
		return a.Hint == b.Hint && slices.Equal(taken(a), taken(b))
	})); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	again, _ := json.Marshal(p.History())
	if string(again) != string(text) {
		t.Errorf("%s\nafter a round trip: %s", text, again)
	}
	want, got := s.p.boots.All[boots.Cold], p.boots.All[boots.Cold]
	got.Hint = 7 * sec
	if want.Expected() != got.Expected() || want.Suspect() != got.Suspect() {
		t.Errorf(
			"%v and %v before, %v and %v after", want.Expected(), want.Suspect(), got.Expected(),
			got.Suspect(),
		)
	}
	// A stored history may hold anything.
	var b boots.Boots
	for _, text := range []string{`{"lastNs":[-5,7]}`, `{"hintNs":-1,"lastNs":[7]}`} {
		if err := json.Unmarshal([]byte(text), &b); err != nil || b.Hint != 0 || b.Longest() != 7 {
			t.Errorf("%s: %+v, %v", text, b, err)
		}
	}
	if json.Unmarshal([]byte(`{"lastNs":"x"}`), &b) == nil {
		t.Error("nonsense is taken")
	}
}
