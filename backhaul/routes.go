package backhaul

import (
	"hash/maphash"
	"math"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/balance"
)

// routes remembers which requests moved bulk, by app, method and path. Routes that share a slot share their fate, which
// costs little: the lane changes and nothing else.
type routes struct {
	slots [1024]atomic.Int64 // when bulk was last seen, in Unix nanoseconds
}

var routeSeed = maphash.MakeSeed()

func routeOf(app balance.AppID, method, path string) uint64 {
	return maphash.Comparable(routeSeed, [3]string{string(app), method, path}) | 1<<63
}

// mark notes what a request moved.
func (r *routes) mark(route uint64, received int64, body int64, at time.Time) {
	if route != 0 && (received >= hop.BulkSize || body >= hop.BulkSize) {
		r.slots[route%uint64(len(r.slots))].Store(at.UnixNano())
	}
}

// last returns when a route was last seen to move bulk; zero: never.
func (r *routes) last(route uint64) time.Time {
	if n := r.slots[route%uint64(len(r.slots))].Load(); n != 0 {
		return time.Unix(0, n)
	}
	return time.Time{}
}

// lane chooses between the connections for bulk and the others.
func (f *flight) lane() hop.Lane {
	if f.route == 0 {
		f.route = routeOf(f.want.App, f.req.Method, f.req.URL.Path)
	}
	return hop.LaneOf(f.req.ContentLength, f.t.routes.last(f.route), f.start)
}

// memoryPressure is the default of Config.Pressure.
func memoryPressure() float64 {
	limit := debug.SetMemoryLimit(-1)
	if limit <= 0 || limit == math.MaxInt64 {
		return 0
	}
	sample := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(sample)
	return float64(sample[0].Value.Uint64()-sample[1].Value.Uint64()) / float64(limit)
}
