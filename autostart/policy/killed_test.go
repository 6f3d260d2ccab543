package policy

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// One of four machines is killed from outside each second, and boots take 5 ms: they are up nearly
// all the time, and nobody is sent away.
func TestKilledMachinesStartAgainAtOnce(t *testing.T) {
	const tick = 5 * time.Millisecond
	for seed := range uint64(20) {
		s := newStory(t, balance.App{Limits: balance.Limits{Soft: 1}}, "nrt: a b c d")
		rng := rand.New(rand.NewPCG(seed, 1))
		s.plan(0, 0, 0)
		looks, up := 0, 0
		for at := time.Duration(0); at < 2*time.Minute; at += tick {
			for _, m := range s.rows {
				if m.State == balance.StateStarting {
					s.see(s.names[m.ID] + " started")
				}
			}
			if name := string("abcd"[rng.IntN(4)]); at%sec == 0 && s.row(name).State == balance.StateStarted {
				s.see(name + " failed")
			}
			n := 0
			for _, m := range s.rows {
				if m.State == balance.StateStarted {
					n++
				}
			}
			looks, up = looks+4, up+n
			if s.plan(at, n, 4-n); s.last.Refuse != "" {
				t.Fatalf("seed %d, at %v: sent away: %s", seed, at, s.last.Refuse)
			}
			for _, m := range s.last.Start {
				s.p.answered(t0.Add(at), m, balance.StartAccepted, nil)
				s.see(s.names[m.ID] + " starting")
			}
		}
		if share := float64(up) / float64(looks); share < 0.9 {
			t.Errorf("seed %d: machines are up %.2f of the time, want 0.9", seed, share)
		}
	}
}
