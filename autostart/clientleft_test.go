package autostart

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// goneContext is the context of a client that leaves without a sign, so that its request notices it
// when it looks.
type goneContext struct {
	context.Context
	left atomic.Bool
}

func (c *goneContext) Done() <-chan struct{} { return nil }

func (c *goneContext) Err() error {
	if c.left.Load() {
		return context.Canceled
	}
	return nil
}

// A slot is not lost, whenever in its hand-over the client leaves.
func TestASlotIsNotLostWhenItsClientLeaves(t *testing.T) {
	for name, silent := range map[string]bool{ // its context says so only when it is asked
		"before the request is told": false,
		"before the request looks":   true,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, balance.App{Autostart: true, Limits: balance.Limits{Hard: 1}}, Config{},
					boot{})
				w.wake("m0")
				w.run()
				defer w.stop()
				held, _ := w.acquire()
				ctx, leave := context.WithCancel(t.Context())
				defer leave()
				if silent {
					g := &goneContext{Context: t.Context()}
					ctx, leave = g, func() { g.left.Store(true) }
				}
				c := w.park(ctx, &balance.Request{App: "web"})
				q := w.a.queue("web")
				q.mu.Lock() // what follows is what handOver does
				held.Release(balance.OutcomeDone)
				q.room.Begin()
				s := q.room.Turn()
				slot, err := w.b.Pick(balance.Request{App: "web"})
				if err != nil {
					t.Fatal(err)
				}
				q.room.Served(s)
				q.left(&s.Value)
				q.mu.Unlock()
				leave()
				q.give(&s.Value, slot)
				if r := has(t, c); !errors.Is(r.err, context.Canceled) {
					t.Errorf("the request ends with %v", r.err)
				}
				if n := w.b.InFlight("web"); n != 0 {
					t.Errorf("%d in flight, and nobody is there", n)
				}
				again, _ := w.acquire()
				again.Release(balance.OutcomeDone)
			})
		})
	}
	t.Run("during the pick", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, leave := context.WithCancel(t.Context())
			var mu sync.Mutex
			picks := 0
			strategy := balance.StrategyFunc(func(v *balance.View, _ balance.Request) (balance.Slot, bool) {
				mu.Lock()
				picks++
				n := picks
				mu.Unlock()
				if n == 1 {
					return balance.Slot{}, false // the request's own: it has to wait
				}
				leave()
				time.Sleep(time.Millisecond)
				return v.Slot(0, balance.TierReady, 0), true
			})
			w := newWorld(t, balance.App{Autostart: true, Strategy: strategy}, Config{}, boot{})
			w.wake("m0")
			w.run()
			defer w.stop()
			c := w.park(ctx, &balance.Request{App: "web"})
			time.Sleep(sec)
			if r := has(t, c); !errors.Is(r.err, context.Canceled) {
				t.Errorf("the request ends with %v", r.err)
			}
			mu.Lock()
			defer mu.Unlock()
			if n := w.b.InFlight("web"); n != 0 || picks != 2 {
				t.Errorf("%d in flight after %d picks, and nobody is there", n, picks)
			}
		})
	})
}
