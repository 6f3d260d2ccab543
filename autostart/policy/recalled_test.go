package policy

import (
	"errors"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// A failed recall says something of the cordon that it was about, and nothing of the next one.
func TestLateAnswerToARecall(t *testing.T) {
	s := newStory(t, balance.App{}, "nrt: a b")
	want := func(at time.Duration, do string) {
		t.Helper()
		if got := s.plan(at, 1, 0); got != do {
			t.Errorf("after %v: %q, want %q", at, got, do)
		}
	}
	s.see("a started, a cordoned")
	want(0, "recall a")
	first := *s.row("a")
	s.see("a uncordoned") // somebody else was quicker
	s.see("a cordoned")
	want(sec, "recall a")
	s.p.recalled(t0.Add(sec), first, errors.New("no route"))
	want(sec, "") // the second recall is on its way
	s.p.recalled(t0.Add(sec), *s.row("a"), errors.New("no route"))
	want(sec, "start b")
}
