package hop

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// The table of the package comment, row by row.
func TestDecisionTable(t *testing.T) {
	l := RetryLimits{Bounces: 8, Rounds: 8, Failures: 3}
	for _, row := range []struct {
		failure   Failure
		certainty Certainty
		// whole body: not idempotent, idempotent; spent body: the same
		plain, idem, spent, idemSpent Next
	}{
		{FailureDial, CertaintyNotSent, NextElsewhere, NextElsewhere, NextGiveUp, NextGiveUp},
		{FailureStale, CertaintyNotSent, NextElsewhere, NextElsewhere, NextGiveUp, NextGiveUp},
		{FailureUnsent, CertaintyNotSent, NextElsewhere, NextElsewhere, NextGiveUp, NextGiveUp},
		{FailureDenied, CertaintyNotExecuted, NextElsewhere, NextElsewhere, NextGiveUp, NextGiveUp},
		{FailureUnread, CertaintyNotExecuted, NextElsewhere, NextElsewhere, NextGiveUp, NextGiveUp},
		{FailureReset, CertaintyMaybeExecuted, NextGiveUp, NextElsewhere, NextGiveUp, NextGiveUp},
		{FailureTimeout, CertaintyMaybeExecuted, NextGiveUp, NextElsewhere, NextGiveUp, NextGiveUp},
		{FailureMalformed, CertaintyResponded, NextGiveUp, NextGiveUp, NextGiveUp, NextGiveUp},
		{FailureAnswer, CertaintyResponded, NextGiveUp, NextGiveUp, NextGiveUp, NextGiveUp},
		{FailureClient, CertaintyMaybeExecuted, NextGiveUp, NextGiveUp, NextGiveUp, NextGiveUp},
		{FailureRefused, CertaintyNotExecuted, NextElsewhere, NextElsewhere, NextGiveUp, NextGiveUp},
		{FailureLimit, CertaintyNotSent, NextElsewhere, NextElsewhere, NextGiveUp, NextGiveUp},
		{FailureDeadline, CertaintyMaybeExecuted, NextGiveUp, NextGiveUp, NextGiveUp, NextGiveUp},
		{failures, CertaintyResponded, NextGiveUp, NextGiveUp, NextGiveUp, NextGiveUp}, // of a later version
	} {
		decide := func(idem bool, b BodyState) Next { return new(Retries).Failed(l, row.failure, idem, b) }
		if got := row.failure.Certainty(); got != row.certainty {
			t.Errorf("%v: %v, want %v", row.failure, got, row.certainty)
		}
		got := []Next{
			decide(false, BodyWhole), decide(true, BodyWhole), decide(false, BodySpent),
			decide(true, BodySpent),
		}
		if d := cmp.Diff([]Next{row.plain, row.idem, row.spent, row.idemSpent}, got); d != "" {
			t.Errorf("%v: %s", row.failure, d)
		}
	}
}

func TestBudgetsAreApart(t *testing.T) {
	l := RetryLimits{Bounces: 3, Rounds: 2, Failures: 1}
	var s Retries
	var got []Next
	for range 3 {
		got = append(got, s.Bounced(l, 0))
	}
	got = append(got, s.Failed(l, FailureDial, false, BodyWhole))
	for range 6 {
		got = append(got, s.Bounced(l, 0))
	}
	want := []Next{
		NextElsewhere, NextElsewhere, NextRound, NextElsewhere, NextElsewhere, NextElsewhere, NextRound,
		NextElsewhere, NextElsewhere, NextGiveUp,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if v := s.Failed(l, FailureDial, false, BodyWhole); v != NextGiveUp {
		t.Errorf("second failure: %v", v)
	}
}

// One machine that breaks off may be an accident, and a second one is not: a request is not sent to
// a third, whatever is left of its budgets.
func TestTwoMachinesMayBreakOff(t *testing.T) {
	var s Retries
	if first, second := s.Died(), s.Died(); first != NextElsewhere || second != NextGiveUp {
		t.Errorf("after one machine %v, after two %v", first, second)
	}
}

func TestAPickerThatWaitsMayBeginManyRounds(t *testing.T) {
	l := RetryLimits{Bounces: 2, Rounds: 2, Patience: time.Minute}
	var s Retries
	for i := range 1000 {
		s.Renewed(time.Second)
		if v := s.Bounced(l, time.Duration(i)*time.Millisecond); v != NextElsewhere {
			t.Fatalf("round %d: %v", i, v)
		}
	}
	for i := range 100 { // it does not wait any more: we pause for it
		s.Renewed(0)
		if v := s.Bounced(l, time.Second); v != NextRound ||
			s.Pause() < min(pauseFirst<<min(i, 10), pauseMax) {
			t.Fatalf("hot round %d: %v, pause %v", i, v, s.Pause())
		}
	}
	if v := s.Bounced(l, time.Minute+1); v != NextGiveUp {
		t.Errorf("patience is over: %v", v)
	}
}

func TestPausesGrowToABound(t *testing.T) {
	var s Retries
	var got []time.Duration
	for s.rounds = range 9 {
		got = append(got, s.Pause()/time.Millisecond)
	}
	if d := cmp.Diff([]time.Duration{5, 5, 10, 20, 40, 80, 160, 250, 250}, got); d != "" {
		t.Error(d)
	}
	s.rounds = math.MaxInt
	if s.Pause() != pauseMax {
		t.Error(s.Pause())
	}
}

func anyLoad(t *rapid.T) balance.Load {
	limit := rapid.IntRange(0, balance.MaxLimit)
	return balance.Load{
		InFlight: limit.Draw(
			t, "inFlight",
		), Limits: balance.Limits{Soft: limit.Draw(t, "soft"), Hard: limit.Draw(t, "hard")},
		State:  balance.State(rapid.Uint8Range(0, uint8(balance.StateFailed)).Draw(t, "state")),
		Cordon: balance.Cordon(rapid.Uint8Range(0, uint8(balance.CordonHard)).Draw(t, "cordon")),
		CordonGen: rapid.Uint64().
			Draw(t, "gen"),
		Epoch: rapid.Uint64().Draw(t, "epoch"), Seq: rapid.Uint64().Draw(t, "seq"),
	}
}

func TestLoadTravels(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := anyLoad(t)
		s := string(AppendLoad(nil, l))
		for _, s := range []string{s, s + " 9 of a later version"} {
			if got, ok := ParseLoad(s); !ok || got != l {
				t.Fatalf("%q: got %+v, %v; want %+v", s, got, ok, l)
			}
		}
	})
	for _, s := range []string{"", "1", "1 2 3 4 5 6 7", "1 2 3 2 0 1 1 -1", "1 2 3 2 0 1 1 +1", "01 2 3 2 0 1 1 1", "1  2 3 2 0 1 1 1",
		"1048576 2 3 2 0 1 1 1", "1 2 3 7 0 1 1 1", "1 2 3 2 3 1 1 1", "1 2 3 2 0 1 1 18446744073709551616", "1 2 3 2 0 1 1 99999999999999999999"} {
		if l, ok := ParseLoad(s); ok {
			t.Errorf("%q: got %+v", s, l)
		}
	}
}

func TestWhatEdgesAndOwnersSayTravels(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.OneOf(rapid.StringN(1, 20, 40), rapid.StringMatching(`[a-z0-9.-]{1,20}`))
		want := To{
			App: balance.AppID(name.Draw(t, "app")), Machine: balance.MachineID(name.Draw(t, "id")),
			CordonGen: rapid.Uint64().Draw(t, "gen"),
			Node: balance.NodeID(
				rapid.String().Draw(t, "node"),
			),
			Token: rapid.OneOf(rapid.Just(uint64(0)), rapid.Uint64()).Draw(t, "slot"),
		}
		s := string(AppendTo(nil, want))
		if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			t.Fatalf("%q is not fit for a header", s)
		}
		if got, ok := ParseTo(s + ";later"); !ok || got != want {
			t.Fatalf("%q: got %+v, %v; want %+v", s, got, ok, want)
		}
		f := Failure(rapid.Uint8Range(uint8(FailureDial), uint8(failures-1)).Draw(t, "failure"))
		words := rapid.String().Draw(t, "words")
		gotF, gotW := ParseFault(string(AppendFault(nil, f, words)))
		if gotF != f || gotW != words[:min(len(words), maxFault)] {
			t.Fatalf("got %v %q; want %v %q", gotF, gotW, f, words)
		}
	})
	for b := balance.BounceFull; b <= balance.BounceWrongEpoch; b++ {
		if got := ParseBounce(b.String()); got != b {
			t.Errorf("%v: got %v", b, got)
		}
	}
	for _, s := range []string{"", "admitted", "on-holiday"} {
		if got := ParseBounce(s); got != balance.BounceNotHere {
			t.Errorf("%q: got %v; it is a bounce all the same", s, got)
		}
	}
	for _, s := range []string{"", "none;x", "later;x", "reset;%zz"} {
		if f, _ := ParseFault(s); f != FailureReset {
			t.Errorf("%q: got %v; want the worst", s, f)
		}
	}
}

var sink bool

func TestCodecsDoNotAllocate(t *testing.T) {
	l := balance.Load{InFlight: 12, Limits: balance.Limits{Soft: 20, Hard: 25}, State: balance.StateStarted, CordonGen: 3, Epoch: 7, Seq: 123456}
	load, where := string(AppendLoad(nil, l)), string(AppendTo(nil, To{App: "web", Machine: "nrt-1", CordonGen: 3, Node: "edge-1"}))
	buf := make([]byte, 0, 64)
	for name, f := range map[string]func(){
		"appendLoad": func() { AppendLoad(buf, l) },
		"parseLoad":  func() { ParseLoad(load) },
		"appendTo":   func() { AppendTo(buf, To{App: "web", Machine: "nrt-1", CordonGen: 3, Node: "edge-1"}) },
		"parseTo":    func() { ParseTo(where) },
		"internal":   func() { sink = IsInternal("Ebb-Load") || IsInternal("X-Forwarded-For") },
	} {
		if n := testing.AllocsPerRun(5000, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func FuzzParseLoad(f *testing.F) {
	f.Add("12 20 25 2 0 3 7 123456")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		l, ok := ParseLoad(s)
		if !ok && l != (balance.Load{}) {
			t.Fatalf("%q: refused, but %+v", s, l)
		}
		if !ok {
			return
		}
		if again, ok := ParseLoad(string(AppendLoad(nil, l))); !ok || again != l {
			t.Fatalf("%q: %+v, then %+v", s, l, again)
		}
	})
}

func FuzzParseTo(f *testing.F) {
	f.Add("web;nrt-1;3;edge-1")
	f.Add("a%3Bb;%25;0;")
	f.Add("web;nrt-1;3;edge-1;18446744073709551615;later")
	f.Add("web;nrt-1;3;edge-1;-1")
	f.Fuzz(func(t *testing.T, s string) {
		w, ok := ParseTo(s)
		if !ok {
			return
		}
		if again, ok := ParseTo(string(AppendTo(nil, w))); !ok || again != w {
			t.Fatalf("%q: %+v, then %+v", s, w, again)
		}
	})
}

func FuzzParseFault(f *testing.F) {
	f.Add("dial;connection%20refused")
	f.Add("later;%zz")
	f.Fuzz(func(t *testing.T, s string) {
		kind, words := ParseFault(s)
		if kind == FailureNone || kind >= failures {
			t.Fatalf("%q: %v", s, kind)
		}
		if again, w := ParseFault(string(AppendFault(nil, kind, words))); again != kind ||
			w != words[:min(len(words), maxFault)] {
			t.Fatalf("%q: %v %q, then %v %q", s, kind, words, again, w)
		}
		ParseBounce(s)
		sink = IsInternal(s)
	})
}

func TestWordsAreComplete(t *testing.T) {
	for f := range failures {
		if f.String() == "" || strings.Contains(fmt.Sprint(f.Certainty()), "(") {
			t.Errorf("failure %d has no words", f)
		}
	}
}

// What a refusal names is read as it was written, whatever the names; anything else names nothing
// that is not there.
func FuzzElse(f *testing.F) {
	f.Add("m1", "worker-1", "m1;w;m2;w")
	f.Add("a;b%", "\x00", ";;;")
	f.Fuzz(func(t *testing.T, id, owner, text string) {
		ms := []balance.Machine{
			{App: "web", ID: balance.MachineID(id), Owner: balance.NodeID(owner)}, {App: "web", ID: "m2", Owner: "w2"},
		}
		got := ParseElse(string(AppendElse(nil, ms)), "web")
		if id == "" || owner == "" {
			ms = ms[1:]
		}
		if !slices.Equal(got, ms) {
			t.Errorf("%v, want %v", got, ms)
		}
		if n := len(ParseElse(text, "web")); n > ElseMax {
			t.Errorf("%d machines", n)
		}
	})
}
