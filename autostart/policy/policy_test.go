package policy

import (
	"testing"

	"github.com/ebbkit/ebb/balance"
	"github.com/google/go-cmp/cmp"
)

func TestRegionOrder(t *testing.T) {
	have := []string{"fra", "hkg", "nrt", "syd"}
	for _, tc := range []struct {
		name    string
		regions []string
		nearest string
		have    []string
		first   []string // the rest is in an order of its own
	}{
		{"the nearest is home", nil, "nrt", have, []string{"nrt"}},
		{"the app's list rules", []string{"hkg", "fra"}, "nrt", have, []string{"hkg", "fra"}},
		{"of the list what has machines", []string{"gru", "fra", "fra"}, "nrt", have, []string{"fra"}},
		{"nothing of the list", []string{"gru"}, "nrt", have, []string{"nrt"}},
		{"nothing near", nil, "gru", have, nil},
		{"no machines", []string{"nrt"}, "nrt", nil, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			app := balance.App{ID: "web", Regions: tc.regions}
			got := RegionOrder(app, tc.nearest, tc.have)
			if len(got) != len(tc.have) || !cmp.Equal(got[:len(tc.first)], tc.first) && len(tc.first) > 0 {
				t.Errorf("%v, want all of %v and %v first", got, tc.have, tc.first)
			}
		})
	}
	// Nodes with the same home share the order, whichever way they get the home.
	a := RegionOrder(balance.App{ID: "web"}, "nrt", have)
	b := RegionOrder(
		balance.App{ID: "web", Regions: []string{"nrt"}}, "syd", []string{"syd", "nrt", "hkg", "fra"},
	)
	if !cmp.Equal(a, b) {
		t.Errorf("orders differ: %v and %v", a, b)
	}
}
