package backhaul

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ebbkit/ebb/balance"
)

// A refused connection is told to whoever starts the machine, at its owner, and no other failure
// is.
func TestAMachineThatRefusesConnectionsIsSuspected(t *testing.T) {
	both(t, func(t *testing.T, local bool) {
		r := newRig(t, rigConfig{app: roomy, local: local})
		var mu sync.Mutex
		var told []string
		defer r.worker.Keep(balance.Keeper{Suspect: func(app balance.AppID, id balance.MachineID, epoch uint64) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, fmt.Sprintf("%s of %s at %d", id, app, epoch))
		}})()
		r.host("m1", "127.0.0.1:1") // nobody listens
		hangsUp, _ := cutter(t, "")
		r.host("m2", hangsUp)
		r.serve("m3", says("well"))
		for range 30 {
			if resp, body := fetch(t, r.front.Client(), request(t, "GET", r.front.URL, strings.NewReader(""))); resp.StatusCode != http.StatusOK {
				t.Fatalf("%d %s", resp.StatusCode, body)
			}
		}
		r.quiet()
		mu.Lock()
		defer mu.Unlock()
		if told = slices.Compact(told); !slices.Equal(told, []string{"m1 of web at 1"}) {
			t.Errorf("told of %q, want of m1 only", told)
		}
	})
}
