package backhaul

import (
	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/balance"
)

// appRows knows the rows of apps; where the fleet is nil, it knows none.
type appRows struct{ fleet *balance.Fleet }

// row returns an app's row; one with its ID alone where it is not known.
func (a appRows) row(id balance.AppID) balance.App {
	if a.fleet != nil {
		if s, ok := a.fleet.App(id); ok {
			return s.App()
		}
	}
	return balance.App{ID: id}
}

// bounds returns what an app's requests may wait for.
func (a appRows) bounds(id balance.AppID) hop.Bounds {
	row := a.row(id)
	return hop.BoundsOf(&row)
}
