package hop

import (
	"testing"
	"time"
)

func TestBudgetOfFailures(t *testing.T) {
	at := time.Unix(1000, 0)
	spend := func(b *Budget, n int) (got int) {
		for range n {
			if b.Spend(at) {
				got++
			}
		}
		return got
	}
	b := &Budget{Ratio: 0.2, Floor: 10}
	if got := spend(b, 1000); got != 100 {
		t.Errorf("at first %d, want the floor of 10 s", got)
	}
	at = at.Add(time.Second)
	if got := spend(b, 1000); got != 10 {
		t.Errorf("after a second %d, want 10", got)
	}
	for range 500 {
		b.Earn(at)
	}
	if got := spend(b, 1000); got != 100 {
		t.Errorf("after 500 requests %d, want 100", got)
	}
	for range 5000 {
		b.Earn(at)
	}
	at = at.Add(time.Hour) // nothing is saved up
	if got := spend(b, 5000); got != 100 {
		t.Errorf("after an hour %d, want 100", got)
	}
	at = at.Add(-time.Minute) // time goes back
	if got := spend(b, 10); got != 0 {
		t.Errorf("in the past %d", got)
	}
	b = &Budget{Ratio: 0.25, Floor: 1}
	spend(b, 1000)
	for range 400 {
		b.Earn(at)
	}
	at = at.Add(time.Second) // what requests have earned fades, it is not lost
	if got := spend(b, 1000); got != 100 {
		t.Errorf("a second after 400 requests %d, want the 100 that they earned", got)
	}
	if off := (&Budget{Ratio: -1}); spend(off, 1000) != 1000 {
		t.Error("no bound bounds")
	}
}
