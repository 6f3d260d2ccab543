package waitroom

import "time"

// Room is the waiting room of one app: a [List] of requests, what they hold, and how fast they are
// served. It takes the time as an argument, so that a caller may use its own. The zero value is an
// empty room. It is not safe for concurrent use.
//
// Invariants: Bytes and Insisting are the sums over the occupied seats.
type Room[T any] struct {
	List[T]
	Bytes     int // that waiting requests hold
	Insisting int // how many of them wait for particular machines
	rate      Rate
}

// Limits bounds the requests in a [Room].
type Limits struct {
	Most  int // requests, however fast they are served
	Usual int // requests, while it is not known how fast
	Bytes int // that they hold; 0 or less: no bound
}

// Join seats s, see [List.Join].
func (r *Room[T]) Join(s *Seat[T], tenant string, place uint64, returns bool) {
	r.List.Join(s, tenant, place, returns)
	r.Bytes += s.Bytes
	if s.Insists {
		r.Insisting++
	}
}

// Leave removes s and reports whether it was in the room: of two goroutines that want to end a
// wait, one gets true.
func (r *Room[T]) Leave(now time.Time, s *Seat[T]) bool {
	if !r.List.Leave(s) {
		return false
	}
	r.left(now, s)
	return true
}

// Serve removes s because it has got a slot, see [List.Served].
func (r *Room[T]) Serve(now time.Time, s *Seat[T]) bool {
	if !r.Served(s) {
		return false
	}
	r.rate.Gave(now, r.N > 0)
	r.left(now, s)
	return true
}

func (r *Room[T]) left(now time.Time, s *Seat[T]) {
	r.Bytes -= s.Bytes
	if s.Insists {
		r.Insisting--
	}
	if r.N == 0 {
		r.rate.Stop(now)
	}
}

// Full reports whether one more would be too many: no more may wait than are served within wait, if
// the rate is known. A negative wait has no known rate: it has no end, or is for a start.
func (r *Room[T]) Full(now time.Time, wait time.Duration, l Limits) bool {
	limit := l.Usual
	if wait >= 0 {
		if _, known := r.rate.PerSecond(now); known {
			limit = r.rate.Within(now, wait, l.Most)
		}
	}
	return r.N >= limit
}

// Heavy reports whether that many more bytes would be too many.
func (r *Room[T]) Heavy(bytes int, l Limits) bool { return l.Bytes > 0 && r.Bytes+bytes > l.Bytes }

// Drain returns how long it takes until all who wait are served; 0 where that is not known.
func (r *Room[T]) Drain(now time.Time) time.Duration { return r.rate.Drain(now, r.N) }

// Youngest returns the youngest seat of the tenant with most waiting requests; nil when nobody
// waits.
func (r *Room[T]) Youngest() *Seat[T] {
	if t := r.Longest(); t != nil {
		return t.Last
	}
	return nil
}

// Displaces returns the seat to reject in favour of a request of a tenant that has less than its
// equal share: the youngest of the tenant with most. It is nil when there is none.
func (r *Room[T]) Displaces(tenant string) *Seat[T] {
	own, tenants := r.Waiting(tenant), r.Tenants
	if own == 0 {
		tenants++
	}
	if (own+1)*tenants > r.N { // this comparison is all that a rejected request costs
		return nil
	}
	if most := r.Longest(); most != nil && most.N > own+1 {
		return most.Last
	}
	return nil
}
