package autostart

import (
	"slices"

	"github.com/ebbkit/ebb/balance"
)

// insists reports whether a request has to go to particular machines. A preference is no reason to wait.
func insists(w *balance.Want) bool {
	return w != nil && (w.Revision != "" || !w.Force.Empty())
}

// sameWant reports whether a and b insist on the same machines.
func sameWant(a, b *balance.Want) bool {
	if a == b {
		return true
	}
	return a != nil && b != nil && a.Revision == b.Revision && slices.Equal(a.Force.Machines, b.Force.Machines) && slices.Equal(a.Force.Regions, b.Force.Regions)
}
