package machine

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/balance"
)

const sec = time.Second

// canonical returns m0, m1... in the order in which they are started.
func canonical(app balance.AppID, n int) []balance.MachineID {
	ids := make([]balance.MachineID, n)
	for i := range ids {
		ids[i] = balance.MachineID(fmt.Sprintf("m%d", i))
	}
	slices.SortFunc(ids, func(a, b balance.MachineID) int {
		return cmp.Compare(balance.Rank(app, a), balance.Rank(app, b))
	})
	return ids
}

// class fails the test unless err is of that class and knows when to come back, where after says
// so.
func class(t *testing.T, err, want error, after bool) {
	t.Helper()
	e, ok := errors.AsType[*autostart.Error](err)
	if !ok || !errors.Is(err, want) || after != (e.RetryAfter() > 0) {
		t.Errorf("error %v, retry after %v; want %v", err, e.RetryAfter(), want)
	}
}

// edge sends requests for the app "web" into a waiting room.
type edge struct {
	t *testing.T
	a *autostart.Autostart
}

// get acquires a slot, holds it for a while and returns the machine.
func (w *edge) get(ctx context.Context, hold time.Duration) (balance.MachineID, error) {
	slot, err := w.a.Acquire(ctx, &balance.Request{App: "web"})
	if err != nil {
		return "", err
	}
	id := slot.Machine().ID
	g := slot.Gate()
	if _, b := g.Admit(0, 0); b != balance.BounceNone {
		w.t.Errorf("slot of %s handed over, and its gate says %v", id, b)
		slot.Release(balance.OutcomeBounced)
		return "", errors.New("bounced")
	}
	time.Sleep(hold)
	g.Leave()
	slot.Release(balance.OutcomeDone)
	return id, nil
}

// many sends n requests at once and returns their errors.
func (w *edge) many(n int, hold time.Duration) (errs []error) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	for range n {
		wg.Go(func() {
			_, err := w.get(w.t.Context(), hold)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	return errs
}

// hooks note who has called back, and call everything the first time.
type hooks struct {
	everything func()

	mu     sync.Mutex
	called map[string]bool
}

func (h *hooks) hook(name string) {
	h.mu.Lock()
	again := h.called[name]
	h.called[name] = true
	h.mu.Unlock()
	if !again {
		h.everything()
	}
}

func (h *hooks) want(t *testing.T, names ...string) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, n := range names {
		if !h.called[n] {
			t.Errorf("%s was not called", n)
		}
	}
}

// coldBoots returns what a has learned of an app's cold boots, oldest first.
func coldBoots(t *testing.T, a *autostart.Autostart, app balance.AppID) []time.Duration {
	t.Helper()
	text, err := json.Marshal(a.Histories()[app])
	if err != nil {
		t.Fatal(err)
	}
	var h struct {
		Boots []struct {
			All, Resume bool
			Boots       struct{ LastNs []time.Duration }
		}
	}
	if err := json.Unmarshal(text, &h); err != nil {
		t.Fatal(err)
	}
	for _, b := range h.Boots {
		if b.All && !b.Resume {
			return b.Boots.LastNs
		}
	}
	return nil
}
