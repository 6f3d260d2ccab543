package autostart

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// pool is a world of machines that run and take one request each.
func pool(t *testing.T, n int, c Config) *world {
	t.Helper()
	w := newWorld(t, balance.App{Limits: balance.Limits{Hard: 1}}, c, make([]boot, n)...)
	for _, id := range canonical("web", n) {
		w.wake(id)
	}
	w.run()
	return w
}

// A request of one tenant does not wait for the flood of another, only for its turn.
func TestFloodOfOneTenant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := pool(t, 2, Config{MaxWait: -1})
		defer w.stop()
		use := func(tenant string) time.Duration {
			began := time.Now()
			slot, err := w.a.Acquire(t.Context(), &balance.Request{App: "web", Tenant: tenant})
			waited := time.Since(began)
			if err != nil {
				t.Error(err)
				return waited
			}
			time.Sleep(sec)
			slot.Release(balance.OutcomeDone)
			return waited
		}
		var flood sync.WaitGroup
		for range 60 {
			flood.Go(func() { use("") })
		}
		synctest.Wait()
		// One request of each machine is under way, and the flood's first comes before the other's
		// first.
		for _, tenant := range []string{"a", "b", "a"} {
			if waited := use(tenant); waited > 2*sec {
				t.Errorf(
					"a request of tenant %s waited %v on two machines that take 1 s for each", tenant, waited,
				)
			}
		}
		flood.Wait()
	})
}

// Two floods get as many slots each, however much more one of them sends.
func TestTenantsGetEqualShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := pool(t, 1, Config{MaxWait: -1})
		defer w.stop()
		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex
		served := map[string]int{}
		var all sync.WaitGroup
		for tenant, n := range map[string]int{"a": 100, "b": 20, "c": 10} {
			for range n {
				all.Go(func() {
					for ctx.Err() == nil {
						slot, err := w.a.Acquire(ctx, &balance.Request{App: "web", Tenant: tenant})
						if err != nil {
							return
						}
						time.Sleep(sec)
						slot.Release(balance.OutcomeDone)
						mu.Lock()
						served[tenant]++
						mu.Unlock()
					}
				})
			}
		}
		time.Sleep(300*sec + sec/2)
		cancel()
		all.Wait()
		for tenant, n := range served {
			if n < 99 || n > 102 {
				t.Errorf("tenant %s was served %d times of 300, want a third", tenant, n)
			}
		}
	})
}

// A request that its machine has refused returns to its place, and its tenant has not used its
// turn.
func TestRefusedRequestKeepsItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := pool(t, 1, Config{})
		defer w.stop()
		held, _ := w.acquire()
		of := func(tenant string) (*balance.Request, <-chan result) {
			r := &balance.Request{App: "web", Tenant: tenant}
			return r, w.park(t.Context(), r)
		}
		a1, wait := of("a")
		_, a2 := of("a")
		_, b1 := of("b")
		held.Release(balance.OutcomeDone)
		slot := has(t, wait).slot
		again := w.park(t.Context(), a1) // refused; it is there again before anybody else is served
		slot.Release(balance.OutcomeBounced)
		for i, c := range []<-chan result{again, b1, a2} {
			r := has(t, c)
			if r.err != nil {
				t.Fatalf("%d: %v", i, r.err)
			}
			r.slot.Release(balance.OutcomeDone)
		}
	})
}

func TestBoundsOfTenants(t *testing.T) {
	type step struct {
		tenant string
		n      int
		want   string // how many of a, b, c and without a tenant wait then
	}
	for _, tc := range []struct {
		name   string
		bounds bounds // where they are not the default
		tenant int
		bytes  int
		steps  []step
	}{
		{"a full room has room for who has less than its share", bounds{usual: 12}, 0, 0,
			[]step{{"a", 20, "12 0 0 0"}, {"b", 1, "11 1 0 0"}, {"b", 20, "6 6 0 0"}, {"a", 9, "6 6 0 0"}, {"c", 2, "5 5 2 0"}, {"", 20, "3 4 2 3"}, {"a", 5, "3 4 2 3"}}},
		{"a bound for each", bounds{usual: 12}, 3, 0, []step{{"a", 20, "3 0 0 0"}, {"b", 2, "3 2 0 0"}, {"b", 2, "3 3 0 0"}, {"", 9, "3 3 0 3"}}},
		{"of bytes too", bounds{bytes: 12 * 1100}, 0, 1100, []step{{"a", 20, "12 0 0 0"}, {"b", 20, "6 6 0 0"}}},
		{"and over all apps", bounds{all: 12}, 0, 0, []step{{"a", 20, "12 0 0 0"}, {"b", 20, "6 6 0 0"}}},
		{"where nobody has a tenant, the next one is turned away", bounds{usual: 3}, 0, 0, []step{{"", 5, "0 0 0 3"}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				config := Config{MaxWait: -1, MaxParkedTenant: tc.tenant}
				rejected := 0
				config.Trace.Rejected = func(_ balance.AppID, err error) {
					rejected++
					if e, ok := errors.AsType[*Error](err); !ok || e.Class != ErrCrowded {
						t.Errorf("rejected with %v", err)
					}
				}
				w := newWorld(t, balance.App{Autostart: true}, config, boot{never: true})
				b := &w.a.occupancy.bounds
				b.usual, b.bytes, b.all = cmp.Or(
					tc.bounds.usual, b.usual,
				), cmp.Or(
					tc.bounds.bytes, b.bytes,
				), cmp.Or(
					tc.bounds.all, b.all,
				)
				w.run()
				ctx, cancel := context.WithCancel(t.Context())
				defer func() {
					cancel()
					synctest.Wait() // they leave, and are not rejected by the end
					w.stop()
				}()
				came := 0
				for _, st := range tc.steps {
					for range st.n {
						came++
						w.park(
							ctx, &balance.Request{App: "web", Tenant: st.tenant, Held: max(0, tc.bytes-requestBytes)},
						)
					}
					synctest.Wait()
					q := &w.a.roomOf("web").queue
					got := fmt.Sprint(
						q.room.Waiting("a"), q.room.Waiting("b"), q.room.Waiting("c"), q.room.Waiting(""),
					)
					if got != st.want {
						t.Fatalf("after %d of %q: %s wait, want %s", st.n, st.tenant, got, st.want)
					}
					if waits := w.a.Parked("web"); waits+rejected != came ||
						w.a.occupancy.n.Load() != int64(waits) {
						t.Fatalf(
							"%d came, %d wait on %d seats and %d were rejected", came, waits, w.a.occupancy.n.Load(),
							rejected,
						)
					}
				}
			})
		})
	}
}

// The one who is turned away is told how many of its tenant wait.
func TestBoundOfTenantSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := pool(t, 1, Config{MaxParkedTenant: 1})
		defer w.stop()
		held, _ := w.acquire()
		c := w.park(t.Context(), &balance.Request{App: "web", Tenant: "a"})
		_, err := w.a.Acquire(t.Context(), &balance.Request{App: "web", Tenant: "a"})
		class(t, err, ErrCrowded, true)
		if !strings.Contains(err.Error(), "1 wait for this tenant") {
			t.Errorf("error %v", err)
		}
		held.Release(balance.OutcomeDone)
		r := has(t, c)
		r.slot.Release(balance.OutcomeDone)
	})
}
