package health

import (
	"fmt"
	"slices"
	"time"

	"github.com/ebbkit/ebb/balance"
)

const sec = time.Second

var t0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// canonical returns m0, m1... in the order in which they are started.
func canonical(app balance.AppID, n int) []balance.MachineID {
	ids := make([]balance.MachineID, n)
	for i := range ids {
		ids[i] = balance.MachineID(fmt.Sprintf("m%d", i))
	}
	slices.SortFunc(ids, func(a, b balance.MachineID) int {
		return (&balance.Machine{App: app, ID: a}).Compare(&balance.Machine{App: app, ID: b})
	})
	return ids
}
