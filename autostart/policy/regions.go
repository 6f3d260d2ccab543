package policy

import (
	"cmp"
	"slices"

	"github.com/ebbkit/ebb/balance"
)

// RegionOrder returns where demand of an app is served with machines, best first. The first is its home region: the first
// of the app's own list that has machines, else nearest. What home cannot start overflows to the regions after it: first as
// the app lists them, then in an order derived from app and home, which all nodes of one home share. Regions without machines
// are left out. have is not changed.
func RegionOrder(app balance.App, nearest string, have []string) []string {
	order := make([]string, 0, len(have))
	for _, r := range app.Regions {
		if slices.Contains(have, r) && !slices.Contains(order, r) {
			order = append(order, r)
		}
	}
	home := nearest
	if len(order) > 0 {
		home = order[0]
	} else if slices.Contains(have, nearest) {
		order = append(order, nearest)
	}
	listed := len(order)
	for _, r := range have {
		if !slices.Contains(order[:listed], r) {
			order = append(order, r)
		}
	}
	// Nearness would be a better order for requests, but nodes measure it differently, and then each starts its own.
	key := func(r string) uint64 { return balance.Rank(app.ID, balance.MachineID(home+"\x00"+r)) }
	slices.SortFunc(order[listed:], func(a, b string) int { return cmp.Or(cmp.Compare(key(a), key(b)), cmp.Compare(a, b)) })
	return order
}
