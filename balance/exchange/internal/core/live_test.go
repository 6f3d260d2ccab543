package core

import (
	"fmt"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/exchange/internal/wire"
)

// fleet is a reader and nodes that it hears.
type fleet struct {
	t   *testing.T
	r   *reader
	at  time.Duration
	seq uint64
}

func newFleet(t *testing.T) *fleet { return &fleet{t: t, r: newReader()} }

func (f *fleet) now() time.Time { return t0.Add(f.at) }

// beat has nodes heard at the current time; "me" is the reader's own message that comes back.
func (f *fleet) beat(nodes ...balance.NodeID) {
	f.seq++
	for _, n := range nodes {
		m := wire.Load{Header: wire.Header{Incarnation: 1, Seq: f.seq}, Edge: n[0] == 'e'}
		f.r.f.Load(f.now(), Sender{n, "nrt"}, &m)
	}
}

// until has nodes heard every second until a given time.
func (f *fleet) until(at time.Duration, nodes ...balance.NodeID) {
	for f.at < at {
		f.at += sec
		f.beat(nodes...)
		f.r.f.Tick(f.now())
	}
}

// has gives a node a machine.
func (f *fleet) has(node balance.NodeID) {
	m := wire.Rows{
		Header: wire.Header{Incarnation: 1, Seq: 1},
		Rows: []wire.Row{
			{Index: 1, Machine: balance.Machine{App: "web", ID: "m-" + balance.MachineID(node)}},
		},
	}
	f.r.f.Rows(f.now(), Sender{node, "nrt"}, &m)
	f.r.said()
}

func (f *fleet) want(what, want string) {
	f.t.Helper()
	if got := f.r.said(); got != want {
		f.t.Errorf("at %v, %s: got %q, want %q", f.at, what, got, want)
	}
}

func (f *fleet) states() (s string) {
	for _, id := range f.r.f.Nodes() {
		n, _ := f.r.f.Node(id)
		s += fmt.Sprintf("%s:%s ", id, [...]string{"live", "gone", "left"}[n.State])
	}
	return s
}

func (f *fleet) wantStates(want string) {
	f.t.Helper()
	if got := f.states(); got != want {
		f.t.Errorf("at %v: got %q, want %q", f.at, got, want)
	}
}

func TestASilentNodeExpires(t *testing.T) {
	f := newFleet(t)
	f.beat("me", "e1", "w1")
	f.has("w1")
	f.until(10*sec, "me", "e1", "w1")
	f.until(14*sec, "me", "e1")
	f.want("4 s of silence", "")
	f.until(15*sec, "me", "e1")
	f.want("5 s of silence", "gone w1")
	f.wantStates("e1:live w1:gone ")

	f.at += sec
	f.beat("w1")
	f.want("it speaks again", "ask w1")
	f.wantStates("e1:live w1:live ")
}

func TestMassSilenceExpiresNobody(t *testing.T) {
	f := newFleet(t)
	f.beat("me", "e1", "w1", "w2")
	f.until(10*sec, "me", "e1", "w1", "w2")
	f.until(100 * sec) // not even this node's own messages come back
	f.wantStates("e1:live w1:live w2:live ")
	f.until(104*sec, "me", "w1") // the engine is not up for long enough yet
	f.wantStates("e1:live w1:live w2:live ")
	f.until(106*sec, "me", "w1")
	f.wantStates("e1:gone w1:live w2:gone ")

	f = newFleet(t)
	f.beat("me", "e1", "w1", "w2")
	f.until(60*sec, "me") // three of four silent at once: they are cut off, or this node is
	f.wantStates("e1:live w1:live w2:live ")
	f.until(70*sec, "me", "e1")
	f.wantStates("e1:live w1:gone w2:gone ")
}

func TestANodeThatLeavesIsGoneAtOnce(t *testing.T) {
	f := newFleet(t)
	f.beat("me", "w1")
	f.has("w1")
	f.r.f.Load(
		f.now(), Sender{"w1", "nrt"},
		&wire.Load{Header: wire.Header{Incarnation: 1, Seq: 9}, Leaving: true},
	)
	f.want("it leaves", "gone w1")
	f.wantStates("w1:left ")
	f.beat("w1") // late
	f.want("a message from before", "")
	f.wantStates("w1:left ")
	f.r.f.Load(f.now(), Sender{"w1", "nrt"}, &wire.Load{Header: wire.Header{Incarnation: 2, Seq: 1}})
	f.want("it starts again", "ask w1")
	f.wantStates("w1:live ")
}

func (f *fleet) ack(node balance.NodeID, of, seq uint64) {
	f.seq++
	f.r.f.Acks(f.now(), Sender{node, "nrt"}, &wire.Acks{Header: wire.Header{Incarnation: 1, Seq: f.seq}, Acks: []wire.Ack{{Node: "other", Incarnation: 1, Seq: 99}, {Node: "me", Incarnation: of, Seq: seq}}})
}

func TestAcknowledgements(t *testing.T) {
	f := newFleet(t)
	acked := func(what string, seq uint64, want bool) {
		t.Helper()
		if got := f.r.f.Acked(f.now(), seq); got != want {
			t.Errorf("at %v, %s: acked %v", f.at, what, got)
		}
	}
	acked("nobody was heard, and nobody could be", 1, false)
	f.beat("me", "e1", "e2", "w1")
	f.ack("e1", 1, 3)
	f.ack("e2", 1, 3)
	f.until(4*sec, "me", "e1", "e2", "w1")
	acked("another edge may not have been heard yet", 1, false)
	f.until(5*sec, "me", "e1", "e2", "w1")
	acked("both did, and the worker need not", 3, true)
	acked("a later one", 4, false)
	f.ack("e1", 1, 4)
	acked("one of two", 4, false)
	f.ack("e2", 1, 5)
	acked("both", 4, true)
	f.ack("e2", 1, 2)
	acked("an older message of theirs takes nothing back", 4, true)

	f.r.f.Acks(f.now(), Sender{"e2", "nrt"}, &wire.Acks{Header: wire.Header{Incarnation: 2, Seq: 1}})
	acked("e2 has begun anew", 4, false)
	f.r.f.Acks(
		f.now(), Sender{"e2", "nrt"},
		&wire.Acks{
			Header: wire.Header{Incarnation: 2, Seq: 2},
			Acks:   []wire.Ack{{Node: "me", Incarnation: 1, Seq: 4}},
		},
	)
	acked("and has acknowledged", 4, true)

	f.until(9*sec, "me", "e1", "w1")
	acked("a silent edge counts", 6, false)
	f.ack("e1", 1, 6)
	f.until(10*sec, "me", "e1", "w1")
	acked("until it has expired", 6, true)

	f.until(20*sec, "e1", "w1")
	acked("the engine does not carry", 4, false)
	f.until(24*sec, "me", "e1", "w1")
	acked("nor for long enough", 4, false)
	f.until(26*sec, "me", "e1", "w1")
	acked("it does again", 4, true)

	f.r.f.Renumber(7)
	acked("they acknowledged another incarnation", 0, false)
}

func TestDemand(t *testing.T) {
	f := newFleet(t)
	say := func(n balance.NodeID, ds ...wire.Demand) {
		f.seq++
		f.r.f.Demand(
			f.now(), Sender{n, "nrt"},
			&wire.Asks{Header: wire.Header{Incarnation: 1, Seq: f.seq}, Demand: ds},
		)
	}
	want := func(what string, parked int, fresh bool, others int) {
		t.Helper()
		p, ok := f.r.f.Parked(f.now(), "web")
		if o := f.r.f.Others(f.now(), "web", "nrt"); p != parked || ok != fresh || o != others {
			t.Errorf("at %v, %s: parked %d, fresh %v, others %d", f.at, what, p, ok, o)
		}
	}
	f.beat("me", "e1", "e2")
	f.until(6*sec, "me", "e1", "e2")
	want("nobody has said anything", 0, false, 0)
	say("e1", wire.Demand{App: "web", Home: "nrt", InFlight: 2, Parked: 3})
	want("one of two has", 3, false, 5)
	say("e2", wire.Demand{App: "web", Home: "fra", InFlight: 1, Parked: 1})
	want("both have, one of them for another region", 4, true, 5)
	say("e1")
	want("whole values: what is not there is none", 1, true, 0)
	say("e1", wire.Demand{App: "web", Home: "nrt", InFlight: 2, Parked: 3})
	f.until(8*sec, "me", "e1", "e2")
	want("2 s ago", 4, true, 5)
	f.until(9*sec, "me", "e1", "e2")
	want("3 s ago", 4, false, 0)
}

func TestQuestionsAreBoundedAndBackOff(t *testing.T) {
	f := newFleet(t)
	var nodes []balance.NodeID
	for i := range 30 {
		nodes = append(nodes, balance.NodeID(fmt.Sprintf("w%02d", i)))
	}
	f.beat(append(nodes, "me")...)
	f.want("nothing is missing", "")
	f.r.f.Reconnected(f.now())
	f.at += sec
	f.r.f.Tick(f.now())
	f.r.act()
	if n := len(f.r.asked); n != 8 {
		t.Fatalf("%d questions at once, want 8", n)
	}
	for len(f.r.asked) > 0 { // each answer makes room for one more
		a := f.r.asked[0]
		f.r.asked = f.r.asked[1:]
		f.r.f.Answer(f.now(), a.Node, &wire.Snapshot{Header: wire.Header{Incarnation: 1}})
		f.r.act()
		if len(f.r.asked) > 8 {
			t.Fatalf("%d questions at once", len(f.r.asked))
		}
	}
	f.r.log = nil
	if n := len(f.r.f.wanting); n != 0 || f.r.f.busy != 0 {
		t.Fatalf("%d still wanted, %d on their way", n, f.r.f.busy)
	}

	f.has("w00") // a node that does not answer
	f.r.f.Load(
		f.now(), Sender{"w00", "nrt"}, &wire.Load{Header: wire.Header{Incarnation: 1, Seq: 99}, Rows: 3},
	)
	var waits []time.Duration
	for range 12 {
		wake := f.r.f.Wake()
		waits = append(waits, wake.Sub(f.now()))
		f.at = wake.Sub(t0)
		f.r.f.Tick(f.now())
		f.want("due", "ask w00")
		f.r.f.Failed(f.now(), "w00")
	}
	for i, w := range waits {
		least := grace
		if i > 0 {
			least = min(backoffLeast<<(i-1), backoffMost)
		}
		if w < least/2 || w > least {
			t.Errorf("wait %d is %v: want %v to %v", i, w, least/2, least)
		}
	}
}

func TestAGapOfAMomentAsksNobody(t *testing.T) {
	o, r := newOwner(1, 10000), newReader()
	first, second, third := o.put("a", 1)[0], o.put("a", 2)[0], o.put("a", 3)[0]
	r.deliver(t, t0, first)
	r.said()
	r.deliver(t, t0.Add(ms), third)
	r.f.Load(t0.Add(ms), from, o.beat()) // overtakes the second message
	if got := r.said(); got != "" {
		t.Errorf("at once: %q", got)
	}
	r.deliver(t, t0.Add(2*ms), second)
	if got := r.said(); got != "apply 2" {
		t.Errorf("when it arrives: %q", got)
	}
	r.f.Tick(t0.Add(sec))
	if got := r.said(); got != "" || !r.f.Wake().IsZero() {
		t.Errorf("later: %q, wake %v", got, r.f.Wake())
	}
}

// A snapshot in parts applies as a whole or not at all, though the owner's rows change meanwhile.
func TestASnapshotInParts(t *testing.T) {
	o, r := newOwner(1, 30), newReader()
	for _, id := range []string{"a", "b", "c", "d"} {
		o.put(id, 1)
	}
	r.f.Load(t0, from, o.beat())
	for i := 0; len(r.rows) == 0; i++ {
		if i > 10 {
			t.Fatal("never whole")
		}
		r.act()
		a := r.asked[len(r.asked)-1]
		r.deliver(t, t0, o.put("a", uint64(2+i))[0]) // between two parts
		r.answer(t, t0, o, a)
		r.f.Tick(t0)
	}
	if got, want := r.rows[balance.MachineKey{App: "web", ID: "a"}], o.now[balance.MachineKey{App: "web", ID: "a"}]; got != want ||
		len(r.rows) != 4 {
		t.Errorf(
			"%d rows, a is %d: want 4 and %d, the snapshot and what was held meanwhile", len(r.rows), got,
			want,
		)
	}
}

// A clock that is set back costs one message.
func TestAnOlderIncarnation(t *testing.T) {
	f := newFleet(t)
	f.r.f.Load(f.now(), Sender{"w1", "nrt"}, &wire.Load{Header: wire.Header{Incarnation: 9, Seq: 5}})
	f.want("first", "")
	f.r.f.Load(f.now(), Sender{"w1", "nrt"}, &wire.Load{Header: wire.Header{Incarnation: 4, Seq: 1}})
	f.want("an older one", "tell w1 of 9")
	f.r.f.Load(f.now(), Sender{"w1", "nrt"}, &wire.Load{Header: wire.Header{Incarnation: 4, Seq: 2}})
	f.want("not more than once a second", "")
	f.r.f.Load(f.now(), Sender{"w1", "nrt"}, &wire.Load{Header: wire.Header{Incarnation: 10, Seq: 3}})
	f.want("it took the next", "")
	if n, _ := f.r.f.Node("w1"); n.Incarnation != 10 {
		t.Errorf("incarnation %d", n.Incarnation)
	}
	f.beat("me")
	f.r.f.Load(f.now(), Sender{"me", "nrt"}, &wire.Load{Header: wire.Header{Incarnation: 8, Seq: 1}})
	f.want("somebody knows a later one of this node", "outdated 8")
	f.r.f.Renumber(9)
	f.r.f.Older(f.now(), 8)
	f.want("it is older by now", "")
	for i := range 4 { // two processes with one ID
		f.r.f.Older(f.now(), uint64(20+i))
		f.want("at once", "")
		f.at += sec << i
		f.r.f.Older(f.now(), uint64(20+i))
		f.want("after longer and longer", fmt.Sprintf("outdated %d", 20+i))
	}
}

func TestReports(t *testing.T) {
	o, r := newOwner(3, 10000), newReader()
	r.deliver(t, t0, o.put("a", 1)[0])
	r.act()
	r.f.Take()
	i, _ := o.p.Index(balance.MachineKey{App: "web", ID: "a"})
	load := func(inc, seq uint64) {
		r.f.Load(
			t0, from,
			&wire.Load{
				Header: wire.Header{Incarnation: inc, Seq: seq}, Rows: 1,
				Reports: []wire.Report{{Index: i, Load: balance.Load{InFlight: 7}}, {Index: 99}},
			},
		)
	}
	count := func() (n int) {
		for _, a := range r.f.Take() {
			if a, ok := a.(Report); ok && len(a.Reports) == 1 && a.Reports[0].ID == "a" &&
				a.Reports[0].Incarnation == 3 {
				n++
			}
		}
		return n
	}
	load(3, 2)
	if n := count(); n != 1 {
		t.Errorf("%d reports, want that of the known machine", n)
	}
	load(3, 1)
	if n := count(); n != 0 {
		t.Error("an older heartbeat was reported")
	}
	load(4, 1)
	load(3, 5)
	if n := count(); n != 0 {
		t.Error("a report of an incarnation that is over, or by an index of another one")
	}
}

func TestDemandInParts(t *testing.T) {
	f := newFleet(t)
	f.beat("me", "e1")
	f.until(6*sec, "me", "e1")
	part := func(seq uint64, part, parts int, app balance.AppID) {
		f.r.f.Demand(
			f.now(), Sender{"e1", "nrt"},
			&wire.Asks{
				Header: wire.Header{Incarnation: 1, Seq: seq}, Part: part, Parts: parts,
				Demand: []wire.Demand{{App: app, Parked: 1}},
			},
		)
	}
	want := func(what string, apps ...int) {
		t.Helper()
		for i, app := range []balance.AppID{"a", "b", "c"} {
			if n, _ := f.r.f.Parked(f.now(), app); n != apps[i] {
				t.Errorf("%s: %d parked for %s, want %d", what, n, app, apps[i])
			}
		}
	}
	part(1, 0, 2, "a")
	want("half", 0, 0, 0)
	part(2, 1, 2, "b")
	want("whole", 1, 1, 0)
	part(3, 0, 3, "c")
	part(5, 2, 3, "a")
	want("the middle one was lost", 1, 1, 0)
	part(4, 1, 3, "b")
	want("and comes too late", 1, 1, 0)
	part(6, 0, 1, "c")
	want("the next", 0, 0, 1)
}

// While a snapshot is in flight, the missing messages arrive, and later ones: the snapshot is
// older.
func TestUpdatesOvertakeASnapshot(t *testing.T) {
	o, r := newOwner(1, 10000), newReader()
	messages := [][]byte{o.put("a", 1)[0], o.put("a", 2)[0], o.put("a", 3)[0]}
	r.deliver(t, t0, messages[0])
	r.deliver(t, t0, messages[2])
	r.f.Tick(t0.Add(sec))
	r.act()
	b := o.p.Answer(&r.asked[0].Message)
	later := o.put("a", 4)[0]
	r.deliver(t, t0.Add(sec), messages[1])
	r.deliver(t, t0.Add(sec), later)
	r.answered(t, t0.Add(sec), "w", b)
	if got := r.rows[balance.MachineKey{App: "web", ID: "a"}]; got != 4 {
		t.Errorf("epoch %d, want 4", got)
	}
	if n := r.f.nodes["w"]; n.applied != 4 || n.behind() {
		t.Errorf("%d applied, behind %v", n.applied, n.behind())
	}
}

// A part of another snapshot, or the wrong part, is ignored.
func TestPartsThatDoNotBelongTogether(t *testing.T) {
	part := func(cut uint64, part, parts int, id balance.MachineID) *wire.Snapshot {
		return &wire.Snapshot{
			Header: wire.Header{Incarnation: 1, Seq: cut}, Part: part, Parts: parts,
			Rows: []wire.Row{{Index: 1, Machine: balance.Machine{App: "web", ID: id}}},
		}
	}
	for _, c := range []struct {
		what   string
		second *wire.Snapshot
	}{
		{"of another snapshot", part(9, 1, 2, "b")},
		{"another part", part(5, 2, 3, "b")},
		{"of as many others", part(5, 1, 3, "b")},
	} {
		r := newReader()
		r.f.Load(t0, from, &wire.Load{Header: wire.Header{Incarnation: 1, Seq: 1}, Rows: 5})
		r.f.Answer(t0, "w", part(5, 0, 2, "a"))
		r.said()
		r.f.Answer(t0, "w", c.second)
		if got := r.said(); got != "" || len(r.rows) > 0 {
			t.Errorf("%s: %q", c.what, got)
		}
		r.f.Tick(t0.Add(sec))
		r.act()
		if m := r.asked[len(r.asked)-1].Message; m.Part != 0 || m.Cut != 0 {
			t.Errorf(
				"%s: part %d of %d is asked for next: want the first of a new one", c.what, m.Part, m.Cut,
			)
		}
	}
}

func TestNodesThatAreGoneForLongAreForgotten(t *testing.T) {
	f := newFleet(t)
	f.beat("me", "e1", "e2", "w1", "w2")
	f.has("w1")
	f.until(10*sec, "me", "e1", "w2")
	f.want("silent", "gone w1")
	f.wantStates("e1:live e2:gone w1:gone w2:live ")
	f.until(12*time.Minute, "me", "e1", "w2")
	f.wantStates("e1:live w1:gone w2:live ")
	f.until(25*time.Hour, "me", "e1", "w2")
	f.wantStates("e1:live w2:live ")
	f.want("forgotten with its machine", "apply 1")
	if len(f.r.rows) != 0 {
		t.Errorf("%v is left", f.r.rows)
	}
	f.beat("w1")
	f.wantStates("e1:live w1:live w2:live ")
}
