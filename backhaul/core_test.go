package backhaul

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ebbkit/ebb/balance"
)

// The table of the package comment, row by row.
func TestDecisionTable(t *testing.T) {
	l := limits{bounces: 8, rounds: 8, failures: 3}
	for _, row := range []struct {
		failure   Failure
		certainty Certainty
		// whole body: not idempotent, idempotent; spent body: the same
		plain, idem, spent, idemSpent verdict
	}{
		{FailDial, NotSent, elsewhere, elsewhere, giveUp, giveUp},
		{FailStale, NotSent, elsewhere, elsewhere, giveUp, giveUp},
		{FailUnsent, NotSent, elsewhere, elsewhere, giveUp, giveUp},
		{FailDenied, NotExecuted, elsewhere, elsewhere, giveUp, giveUp},
		{FailUnread, NotExecuted, elsewhere, elsewhere, giveUp, giveUp},
		{FailReset, MaybeExecuted, giveUp, elsewhere, giveUp, giveUp},
		{FailTimeout, MaybeExecuted, giveUp, elsewhere, giveUp, giveUp},
		{FailMalformed, Responded, giveUp, giveUp, giveUp, giveUp},
		{FailAnswer, Responded, giveUp, giveUp, giveUp, giveUp},
		{FailClient, MaybeExecuted, giveUp, giveUp, giveUp, giveUp},
		{FailRefused, NotExecuted, elsewhere, elsewhere, giveUp, giveUp},
		{FailLimit, NotSent, elsewhere, elsewhere, giveUp, giveUp},
		{FailDeadline, MaybeExecuted, giveUp, giveUp, giveUp, giveUp},
		{failures, Responded, giveUp, giveUp, giveUp, giveUp}, // of a later version
	} {
		decide := func(idem bool, b bodyState) verdict { return new(spent).failed(l, row.failure, idem, b) }
		if got := row.failure.Certainty(); got != row.certainty {
			t.Errorf("%v: %v, want %v", row.failure, got, row.certainty)
		}
		got := []verdict{decide(false, bodyWhole), decide(true, bodyWhole), decide(false, bodySpent), decide(true, bodySpent)}
		if d := cmp.Diff([]verdict{row.plain, row.idem, row.spent, row.idemSpent}, got); d != "" {
			t.Errorf("%v: %s", row.failure, d)
		}
	}
}

func TestBudgetsAreApart(t *testing.T) {
	l := limits{bounces: 3, rounds: 2, failures: 1}
	var s spent
	var got []verdict
	for range 3 {
		got = append(got, s.bounced(l, 0))
	}
	got = append(got, s.failed(l, FailDial, false, bodyWhole))
	for range 6 {
		got = append(got, s.bounced(l, 0))
	}
	want := []verdict{elsewhere, elsewhere, newRound, elsewhere, elsewhere, elsewhere, newRound, elsewhere, elsewhere, giveUp}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if v := s.failed(l, FailDial, false, bodyWhole); v != giveUp {
		t.Errorf("second failure: %v", v)
	}
}

// One machine that breaks off may be an accident, and a second one is not: a request is not sent to a
// third, whatever is left of its budgets.
func TestTwoMachinesMayBreakOff(t *testing.T) {
	var s spent
	if first, second := s.died(), s.died(); first != elsewhere || second != giveUp {
		t.Errorf("after one machine %v, after two %v", first, second)
	}
}

func TestAPickerThatWaitsMayBeginManyRounds(t *testing.T) {
	l := limits{bounces: 2, rounds: 2, patience: time.Minute}
	var s spent
	for i := range 1000 {
		s.renewed(time.Second)
		if v := s.bounced(l, time.Duration(i)*time.Millisecond); v != elsewhere {
			t.Fatalf("round %d: %v", i, v)
		}
	}
	for i := range 100 { // it does not wait any more: we pause for it
		s.renewed(0)
		if v := s.bounced(l, time.Second); v != newRound || s.pause() < min(pauseFirst<<min(i, 10), pauseMax) {
			t.Fatalf("hot round %d: %v, pause %v", i, v, s.pause())
		}
	}
	if v := s.bounced(l, time.Minute+1); v != giveUp {
		t.Errorf("patience is over: %v", v)
	}
}

func TestPausesGrowToABound(t *testing.T) {
	var s spent
	var got []time.Duration
	for s.rounds = range 9 {
		got = append(got, s.pause()/time.Millisecond)
	}
	if d := cmp.Diff([]time.Duration{5, 5, 10, 20, 40, 80, 160, 250, 250}, got); d != "" {
		t.Error(d)
	}
	s.rounds = math.MaxInt
	if s.pause() != pauseMax {
		t.Error(s.pause())
	}
}

func anyLoad(t *rapid.T) balance.Load {
	limit := rapid.IntRange(0, balance.MaxLimit)
	return balance.Load{
		InFlight: limit.Draw(t, "inFlight"), Limits: balance.Limits{Soft: limit.Draw(t, "soft"), Hard: limit.Draw(t, "hard")},
		State:     balance.State(rapid.Uint8Range(0, uint8(balance.StateFailed)).Draw(t, "state")),
		Cordon:    balance.Cordon(rapid.Uint8Range(0, uint8(balance.CordonHard)).Draw(t, "cordon")),
		CordonGen: rapid.Uint64().Draw(t, "gen"), Epoch: rapid.Uint64().Draw(t, "epoch"), Seq: rapid.Uint64().Draw(t, "seq"),
	}
}

func TestLoadTravels(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := anyLoad(t)
		s := string(appendLoad(nil, l))
		for _, s := range []string{s, s + " 9 of a later version"} {
			if got, ok := parseLoad(s); !ok || got != l {
				t.Fatalf("%q: got %+v, %v; want %+v", s, got, ok, l)
			}
		}
	})
	for _, s := range []string{"", "1", "1 2 3 4 5 6 7", "1 2 3 2 0 1 1 -1", "1 2 3 2 0 1 1 +1", "01 2 3 2 0 1 1 1", "1  2 3 2 0 1 1 1",
		"1048576 2 3 2 0 1 1 1", "1 2 3 7 0 1 1 1", "1 2 3 2 3 1 1 1", "1 2 3 2 0 1 1 18446744073709551616", "1 2 3 2 0 1 1 99999999999999999999"} {
		if l, ok := parseLoad(s); ok {
			t.Errorf("%q: got %+v", s, l)
		}
	}
}

func TestWhatEdgesAndOwnersSayTravels(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.OneOf(rapid.StringN(1, 20, 40), rapid.StringMatching(`[a-z0-9.-]{1,20}`))
		want := to{app: balance.AppID(name.Draw(t, "app")), id: balance.MachineID(name.Draw(t, "id")), gen: rapid.Uint64().Draw(t, "gen"),
			node: balance.NodeID(rapid.String().Draw(t, "node")), slot: rapid.OneOf(rapid.Just(uint64(0)), rapid.Uint64()).Draw(t, "slot")}
		s := string(appendTo(nil, want))
		if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			t.Fatalf("%q is not fit for a header", s)
		}
		if got, ok := parseTo(s + ";later"); !ok || got != want {
			t.Fatalf("%q: got %+v, %v; want %+v", s, got, ok, want)
		}
		f := Failure(rapid.Uint8Range(uint8(FailDial), uint8(failures-1)).Draw(t, "failure"))
		words := rapid.String().Draw(t, "words")
		gotF, gotW := parseFault(string(appendFault(nil, f, words)))
		if gotF != f || gotW != words[:min(len(words), maxFault)] {
			t.Fatalf("got %v %q; want %v %q", gotF, gotW, f, words)
		}
	})
	for b := balance.BounceFull; b <= balance.BounceWrongEpoch; b++ {
		if got := parseBounce(b.String()); got != b {
			t.Errorf("%v: got %v", b, got)
		}
	}
	for _, s := range []string{"", "admitted", "on-holiday"} {
		if got := parseBounce(s); got != balance.BounceNotHere {
			t.Errorf("%q: got %v; it is a bounce all the same", s, got)
		}
	}
	for _, s := range []string{"", "none;x", "later;x", "reset;%zz"} {
		if f, _ := parseFault(s); f != FailReset {
			t.Errorf("%q: got %v; want the worst", s, f)
		}
	}
}

var sink bool

func TestCodecsDoNotAllocate(t *testing.T) {
	l := balance.Load{InFlight: 12, Limits: balance.Limits{Soft: 20, Hard: 25}, State: balance.StateStarted, CordonGen: 3, Epoch: 7, Seq: 123456}
	load, where := string(appendLoad(nil, l)), string(appendTo(nil, to{app: "web", id: "nrt-1", gen: 3, node: "edge-1"}))
	buf := make([]byte, 0, 64)
	for name, f := range map[string]func(){
		"appendLoad": func() { appendLoad(buf, l) },
		"parseLoad":  func() { parseLoad(load) },
		"appendTo":   func() { appendTo(buf, to{app: "web", id: "nrt-1", gen: 3, node: "edge-1"}) },
		"parseTo":    func() { parseTo(where) },
		"internal":   func() { sink = internal("Ebb-Load") || internal("X-Forwarded-For") },
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
		l, ok := parseLoad(s)
		if !ok && l != (balance.Load{}) {
			t.Fatalf("%q: refused, but %+v", s, l)
		}
		if !ok {
			return
		}
		if again, ok := parseLoad(string(appendLoad(nil, l))); !ok || again != l {
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
		w, ok := parseTo(s)
		if !ok {
			return
		}
		if again, ok := parseTo(string(appendTo(nil, w))); !ok || again != w {
			t.Fatalf("%q: %+v, then %+v", s, w, again)
		}
	})
}

func FuzzParseFault(f *testing.F) {
	f.Add("dial;connection%20refused")
	f.Add("later;%zz")
	f.Fuzz(func(t *testing.T, s string) {
		kind, words := parseFault(s)
		if kind == FailNone || kind >= failures {
			t.Fatalf("%q: %v", s, kind)
		}
		if again, w := parseFault(string(appendFault(nil, kind, words))); again != kind || w != words[:min(len(words), maxFault)] {
			t.Fatalf("%q: %v %q, then %v %q", s, kind, words, again, w)
		}
		parseBounce(s)
		sink = internal(s)
	})
}

func TestConfigErrorsNameFieldAndRemedy(t *testing.T) {
	p := NoWait(nil)
	fleet, err := balance.NewFleet(balance.FleetConfig{Node: "n", Region: "r"})
	if err != nil {
		t.Fatal(err)
	}
	edge := func(c Config) error { _, err := NewTransport(p, c); return err }
	owner := func(c HandlerConfig) error { _, err := NewHandler(fleet, c); return err }
	_, noPicker := NewTransport(nil, Config{})
	_, noFleet := NewHandler(nil, HandlerConfig{})
	for want, err := range map[string]error{
		"Picker":                       noPicker,
		"fleet":                        noFleet,
		"Config.Bounces -1":            edge(Config{Bounces: -1}),
		"Config.Rounds -1":             edge(Config{Rounds: -1}),
		"Config.HeaderTimeout -1s":     edge(Config{HeaderTimeout: -time.Second}),
		"Config.MaxHeader -1":          edge(Config{MaxHeader: -1}),
		"Config.Key: want":             edge(Config{Key: "two words"}),
		"HandlerConfig.Key is empty":   owner(HandlerConfig{}),
		"HandlerConfig.NextKey":        owner(HandlerConfig{AnyNode: true, NextKey: "x"}),
		"HandlerConfig.Key: want":      owner(HandlerConfig{Key: "a\nb"}),
		"HandlerConfig.HeaderTimeout ": owner(HandlerConfig{Key: "k", HeaderTimeout: -1}),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want something with %q", err, want)
		}
		if err != nil && strings.Contains(err.Error(), "two words") {
			t.Errorf("a key in an error: %v", err)
		}
	}
	if err := errors.Join(edge(Config{}), owner(HandlerConfig{AnyNode: true}), edge(Config{ReplayLimit: -1, Failures: -1, DialTimeout: -1, MaxIdle: -1, IdleTimeout: -1})); err != nil {
		t.Error(err)
	}
}

func TestWordsAreComplete(t *testing.T) {
	for f := range failures {
		if f.String() == "" || fmt.Sprint(f.Certainty()) == "unknown" {
			t.Errorf("failure %d has no words", f)
		}
	}
}
