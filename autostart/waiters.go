package autostart

// room is a waiting room: a queue in order of places, from which anybody may leave at any time. Equal places stand in the
// order of their coming. Joining behind everybody and leaving cost O(1); joining at an old place costs O(those before it),
// and these are few, since what returns has been near the front. The zero value is an empty room. It is not safe for
// concurrent use.
//
// Invariants: places never decrease from front to back; n is the number of seats from first to last; a seat is in at most
// one room.
type room[T any] struct {
	first, last *seat[T]
	n           int
}

// seat is one who waits. The links belong to the room.
type seat[T any] struct {
	Value      T
	place      uint64
	prev, next *seat[T]
	in         *room[T]
}

// join seats s at a place: behind all whose place is not greater.
func (r *room[T]) join(s *seat[T], place uint64) {
	if s.in != nil {
		panic("autostart: seat taken twice")
	}
	s.place, s.in = place, r
	r.n++
	if r.last == nil || r.last.place <= place {
		r.link(r.last, s, nil)
		return
	}
	next := r.first
	for next.place <= place {
		next = next.next
	}
	r.link(next.prev, s, next)
}

func (r *room[T]) link(prev, s, next *seat[T]) {
	s.prev, s.next = prev, next
	if prev == nil {
		r.first = s
	} else {
		prev.next = s
	}
	if next == nil {
		r.last = s
	} else {
		next.prev = s
	}
}

// leave takes s out and reports whether it was in: of two who want to end a wait, one gets true.
func (r *room[T]) leave(s *seat[T]) bool {
	if s.in != r {
		return false
	}
	if s.prev == nil {
		r.first = s.next
	} else {
		s.prev.next = s.next
	}
	if s.next == nil {
		r.last = s.prev
	} else {
		s.next.prev = s.prev
	}
	s.prev, s.next, s.in = nil, nil, nil
	r.n--
	return true
}
