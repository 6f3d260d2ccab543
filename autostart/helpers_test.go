package autostart

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
)

const sec = time.Second

// coldBoots returns what a has learned of an app's cold boots, oldest first.
func coldBoots(t *testing.T, a *Autostart, app balance.AppID) []time.Duration {
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
