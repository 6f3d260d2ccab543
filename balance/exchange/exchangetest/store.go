package exchangetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance/exchange"
)

// watched records what a watcher was told.
type watched struct {
	mu   sync.Mutex
	last map[string]exchange.Entry
	all  []string
}

func watch(t *testing.T, s exchange.Store) *watched {
	w := &watched{last: map[string]exchange.Entry{}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- s.Watch(ctx, func(e exchange.Entry) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.last[e.Key] = e
			w.all = append(w.all, e.Key)
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch returned %v when its context ended: want nil", err)
		}
	})
	return w
}

// is reports whether the last value told for a key is that one; "" means that it was deleted.
func (w *watched) is(key, value string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	e, ok := w.last[key]
	return ok && string(e.Value) == value && e.Deleted == (value == "")
}

// storing are the clauses of a Store.
var storing = []clause{
	{"the store: what was put is got, by its revision", storeClause(func(t *testing.T, ctx context.Context, a, b exchange.Store) {
		if _, err := a.Get(ctx, "app.web"); !errors.Is(err, exchange.ErrNotFound) {
			t.Errorf("nothing is there: error %v, want ErrNotFound", err)
		}
		rev, err := a.Put(ctx, "app.web", []byte("1"), 0)
		if err != nil || rev == 0 {
			t.Fatalf("put: revision %d, %v", rev, err)
		}
		e, err := b.Get(ctx, "app.web")
		if err != nil || string(e.Value) != "1" || e.Revision != rev || e.Key != "app.web" || e.Deleted {
			t.Errorf("got %+v, %v", e, err)
		}
		next, err := b.Put(ctx, "app.web", []byte("2"), rev)
		if err != nil || next <= rev {
			t.Errorf("revision %d after %d, %v: want it to grow", next, rev, err)
		}
	})},
	{"the store: a write whose revision is no longer the present one is ErrConflict and changes nothing", storeClause(func(t *testing.T, ctx context.Context, a, b exchange.Store) {
		rev, err := a.Put(ctx, "app.web", []byte("1"), 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Put(ctx, "app.web", []byte("2"), 0); !errors.Is(err, exchange.ErrConflict) {
			t.Errorf("it is there already: %v", err)
		}
		next, err := a.Put(ctx, "app.web", []byte("3"), rev)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Put(ctx, "app.web", []byte("4"), rev); !errors.Is(err, exchange.ErrConflict) {
			t.Errorf("an old revision: %v", err)
		}
		if err := b.Delete(ctx, "app.web", rev); !errors.Is(err, exchange.ErrConflict) {
			t.Errorf("deleted by an old revision: %v", err)
		}
		if _, err := b.Put(ctx, "app.api", []byte("5"), next); !errors.Is(err, exchange.ErrConflict) {
			t.Errorf("a revision of what is not there: %v", err)
		}
		if e, err := b.Get(ctx, "app.web"); err != nil || string(e.Value) != "3" {
			t.Errorf("got %+v, %v", e, err)
		}
	})},
	{"the store: of writers at once each revision has one", storeClause(func(t *testing.T, ctx context.Context, a, b exchange.Store) {
		rev, err := a.Put(ctx, "lease", []byte("0"), 0)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		won := 0
		for i := range 8 {
			s := []exchange.Store{a, b}[i%2]
			wg.Go(func() {
				if _, err := s.Put(ctx, "lease", fmt.Append(nil, i), rev); err == nil {
					mu.Lock()
					won++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if won != 1 {
			t.Errorf("%d have won", won)
		}
	})},
	{"the store: a deleted entry is not found, and may be put again as a new one", storeClause(func(t *testing.T, ctx context.Context, a, b exchange.Store) {
		rev, err := a.Put(ctx, "app.web", []byte("1"), 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Delete(ctx, "app.web", rev); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Get(ctx, "app.web"); !errors.Is(err, exchange.ErrNotFound) {
			t.Errorf("got: %v", err)
		}
		again, err := a.Put(ctx, "app.web", []byte("2"), 0)
		if err != nil || again <= rev {
			t.Errorf("put again: revision %d after %d, %v", again, rev, err)
		}
	})},
	{"the store: a watcher is told all that there is, then each change", storeClause(func(t *testing.T, ctx context.Context, a, b exchange.Store) {
		rev, err := a.Put(ctx, "app.web", []byte("1"), 0)
		if err != nil {
			t.Fatal(err)
		}
		w := watch(t, b)
		eventually(t, "what was there is not told", func() bool { return w.is("app.web", "1") })
		if rev, err = a.Put(ctx, "app.web", []byte("2"), rev); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Put(ctx, "split.web", []byte("x"), 0); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a change is not told", func() bool { return w.is("app.web", "2") })
		eventually(t, "a new key is not told", func() bool { return w.is("split.web", "x") })
		if err := a.Delete(ctx, "app.web", rev); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a deletion is not told", func() bool { return w.is("app.web", "") })
	})},
	{"the store: after an interruption a watcher is told what it missed within 5 s, and nothing else is deleted", func(t *testing.T, n Net) {
		if n.Store == nil || n.Interrupt == nil {
			t.Skip("no store, or never away")
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		a, b := n.Store("a"), n.Store("b")
		put := func(key, value string) {
			eventually(t, "nothing can be put", func() bool {
				if e, err := a.Get(ctx, key); err == nil && string(e.Value) == value {
					return true
				}
				_, err := a.Put(ctx, key, []byte(value), 0)
				return err == nil
			})
		}
		put("app.web", "1")
		w := watch(t, b)
		eventually(t, "what was there is not told", func() bool { return w.is("app.web", "1") })
		n.Interrupt(500 * time.Millisecond)
		at := time.Now()
		put("app.api", "2")
		eventually(t, "a change is not told", func() bool { return w.is("app.api", "2") })
		if took := time.Since(at); took > 5*time.Second {
			t.Errorf("it took %v", took)
		}
		if !w.is("app.web", "1") {
			t.Error("another entry has changed")
		}
	}},
}

// storeClause makes a clause from a check of the stores of two nodes.
func storeClause(
	check func(t *testing.T, ctx context.Context, a, b exchange.Store),
) func(*testing.T, Net) {
	return func(t *testing.T, n Net) {
		if n.Store == nil {
			t.Skip("the engine has no store")
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		check(t, ctx, n.Store("a"), n.Store("b"))
	}
}
