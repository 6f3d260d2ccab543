package world

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/events"
	"github.com/ebbkit/ebb/internal/status"
)

// Three edges share machines that take one request at a time: owners grant the slots. Every request
// is answered, no machine ever has two, edges are bounced far less than when they guess, and the
// app falls asleep although slots were ready.
func TestGrantsOverTheHop(t *testing.T) {
	bounces := func(guess bool) (n int) {
		virtual(t, func(c *Config) {
			c.Regions, c.Edges, c.Guess = []Region{{"nrt", 4}}, 3, guess
			c.App.Limits = balance.Limits{Soft: 1, Hard: 1}
			c.App.KeepAlive = 500 * time.Millisecond
		}, func(t *testing.T, p *play) {
			var clients sync.WaitGroup
			for range 12 {
				clients.Go(func() {
					for range 15 {
						if a := p.get("/slow?ms=5"); a.status != http.StatusOK {
							t.Errorf("%d %s", a.status, a.body)
						}
					}
				})
			}
			over := false
			done := make(chan struct{})
			go func() { clients.Wait(); close(done) }()
			look := time.NewTicker(2 * time.Millisecond)
			defer look.Stop()
			for looking := true; looking; {
				select {
				case <-done:
					looking = false
				case <-look.C:
					for _, m := range p.Snapshot().Machines {
						over = over || m.Load > 1
					}
				}
			}
			if over {
				t.Error("a machine was above its hard limit")
			}
			p.until("the app sleeps", func(s status.Snapshot) bool { return in(s, "stopped") == 4 })
			for _, k := range p.workers {
				for m := range mustApp(p, k).All() {
					if g := k.fleet.Gate("web", m.ID); g.InFlight() != 0 {
						t.Errorf("%s sleeps with %d in flight, %d granted", m.ID, g.InFlight(), g.Granted())
					}
				}
			}
			for _, e := range p.Events().Since(0, 100_000) {
				if e.Kind == events.Bounce {
					n += max(1, e.Count)
				}
			}
		})
		return n
	}
	guessed, granted := bounces(true), bounces(false)
	t.Logf("180 requests: %d bounces when edges guess, %d when owners grant", guessed, granted)
	if granted > 60 {
		t.Errorf("%d bounces of 180 requests: when edges guess there are %d", granted, guessed)
	}
}

func mustApp(p *play, k *worker) *balance.Snapshot {
	p.Helper()
	s, ok := k.fleet.App("web")
	if !ok {
		p.Fatal("no app")
	}
	return s
}
