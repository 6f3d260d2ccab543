package pool

import (
	"hash/maphash"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/balance"
)

// BulkRoutes remembers which requests moved bulk data, by app, method and path. Routes that share a
// slot are treated alike; the only effect is on the choice of lane.
type BulkRoutes struct {
	slots [1024]atomic.Int64 // when bulk was last seen, in Unix nanoseconds
}

var routeSeed = maphash.MakeSeed()

func RouteOf(app balance.AppID, method, path string) uint64 {
	return maphash.Comparable(routeSeed, [3]string{string(app), method, path}) | 1<<63
}

// Mark records how much a request moved.
func (r *BulkRoutes) Mark(route uint64, received int64, body int64, at time.Time) {
	if route != 0 && (received >= hop.BulkSize || body >= hop.BulkSize) {
		r.slots[route%uint64(len(r.slots))].Store(at.UnixNano())
	}
}

// Last returns when a route last moved bulk data, or zero if it never did.
func (r *BulkRoutes) Last(route uint64) time.Time {
	if n := r.slots[route%uint64(len(r.slots))].Load(); n != 0 {
		return time.Unix(0, n)
	}
	return time.Time{}
}
