// Package autotest holds what the tests of the waiting room and of the owner's side share.
package autotest

import (
	"encoding/json"
	"sync"
	"testing"
	"time"

	"github.com/ebbkit/ebb/autostart/policy"
)

// Hooks records which hooks were called, and calls Everything on each hook's first call.
type Hooks struct {
	Everything func() // what a user may call from a callback

	mu     sync.Mutex
	called map[string]bool
}

// Call records that the hook of that name was called.
func (h *Hooks) Call(name string) {
	h.mu.Lock()
	again := h.called[name]
	if h.called == nil {
		h.called = map[string]bool{}
	}
	h.called[name] = true
	h.mu.Unlock()
	if !again {
		h.Everything()
	}
}

// Want fails the test unless all of them were called.
func (h *Hooks) Want(t testing.TB, names ...string) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, n := range names {
		if !h.called[n] {
			t.Errorf("%s was not called", n)
		}
	}
}

// ColdBoots returns the known cold boots of an app, oldest first.
func ColdBoots(t testing.TB, known policy.History) []time.Duration {
	t.Helper()
	text, err := json.Marshal(known)
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
