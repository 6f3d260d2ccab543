package autostart

// room is a waiting room: a queue for each tenant, in order of places, from which anybody may leave
// at any time. The tenants take turns: the first of one queue, then the first of the next; within a
// queue equal places stand in the order of their coming. Requests without a tenant are those of one
// tenant. Who comes or leaves costs O(1); who joins at an old place costs O(those before it in its
// queue), and these are few, since what returns has been near the front. The zero value is an empty
// room. It is not safe for concurrent use.
//
// Invariants: within a queue places never decrease from front to back; n is the number of seats in
// all queues; no queue of the list is empty; a seat is in at most one room.
type room[T any] struct {
	n           int
	front, back *tenant[T] // who has their turn next, and last
	tenants     int        // in that list
	named       map[string]*tenant[T]
	unnamed     tenant[T]
	look        uint64 // counts the looks at those who wait
}

// tenant is the queue of one tenant.
type tenant[T any] struct {
	name        string
	in          *room[T] // nil while nobody waits
	first, last *seat[T]
	n           int
	prev, next  *tenant[T]

	look uint64   // the last look that came here
	at   *seat[T] // whose turn it is in that look; nil when it is through with this queue
}

// seat is one who waits. The links belong to the room.
type seat[T any] struct {
	Value      T
	place      uint64
	prev, next *seat[T]
	in         *tenant[T]
}

// join seats s in a tenant's queue: behind all whose place is not greater. Where the tenant had
// nobody waiting it comes last of all, and where s returns to an old place, first: that turn was
// not used.
func (r *room[T]) join(s *seat[T], name string, place uint64, returns bool) {
	if s.in != nil {
		panic("autostart: seat taken twice")
	}
	t := r.tenant(name)
	if t.in == nil {
		t.in = r
		r.append(t)
	}
	if returns && t.prev != nil {
		r.remove(t)
		t.next, r.front.prev, r.front = r.front, t, t
		r.tenants++
	}
	s.place, s.in = place, t
	t.n++
	r.n++
	if t.last == nil || t.last.place <= place {
		t.link(t.last, s, nil)
		return
	}
	next := t.first
	for next.place <= place {
		next = next.next
	}
	t.link(next.prev, s, next)
}

func (r *room[T]) tenant(name string) *tenant[T] {
	if name == "" {
		return &r.unnamed
	}
	t := r.named[name]
	if t == nil {
		if r.named == nil {
			r.named = map[string]*tenant[T]{}
		}
		t = &tenant[T]{name: name}
		r.named[name] = t
	}
	return t
}

// waiting returns how many of a tenant wait.
func (r *room[T]) waiting(name string) int {
	switch t := r.named[name]; {
	case name == "":
		return r.unnamed.n
	case t != nil:
		return t.n
	}
	return 0
}

// append puts t last in the list.
func (r *room[T]) append(t *tenant[T]) {
	t.prev, t.next = r.back, nil
	if r.back == nil {
		r.front = t
	} else {
		r.back.next = t
	}
	r.back = t
	r.tenants++
}

// remove takes t out of the list.
func (r *room[T]) remove(t *tenant[T]) {
	if t.prev == nil {
		r.front = t.next
	} else {
		t.prev.next = t.next
	}
	if t.next == nil {
		r.back = t.prev
	} else {
		t.next.prev = t.prev
	}
	t.prev, t.next = nil, nil
	r.tenants--
}

func (t *tenant[T]) link(prev, s, next *seat[T]) {
	s.prev, s.next = prev, next
	if prev == nil {
		t.first = s
	} else {
		prev.next = s
	}
	if next == nil {
		t.last = s
	} else {
		next.prev = s
	}
}

// leave takes s out and reports whether it was in: of two who want to end a wait, one gets true.
func (r *room[T]) leave(s *seat[T]) bool {
	t := s.in
	if t == nil || t.in != r {
		return false
	}
	if t.at == s {
		t.at = s.next
	}
	if s.prev == nil {
		t.first = s.next
	} else {
		s.prev.next = s.next
	}
	if s.next == nil {
		t.last = s.prev
	} else {
		s.next.prev = s.prev
	}
	s.prev, s.next, s.in = nil, nil, nil
	t.n--
	r.n--
	if t.n == 0 {
		r.remove(t)
		t.in = nil
		delete(r.named, t.name)
	}
	return true
}

// begin begins a look at those who wait, in the order in which they are to be served; see turn.
func (r *room[T]) begin() { r.look++ }

// turn returns whose turn it is in the present look: the same until it leaves, is served or passed
// over. It is nil when all have been looked at. Who comes meanwhile may be left out.
func (r *room[T]) turn() *seat[T] {
	for t := r.front; t != nil; t = t.next {
		if t.look != r.look {
			t.look, t.at = r.look, t.first
		}
		if t.at != nil {
			return t.at
		}
	}
	return nil
}

// pass passes s over in the present look. Its tenant keeps its turn.
func (r *room[T]) pass(s *seat[T]) {
	if t := s.in; t != nil && t.at == s {
		t.at = s.next
	}
}

// served takes s out, as leave does; its tenant's next turn comes after that of all others.
func (r *room[T]) served(s *seat[T]) bool {
	t := s.in
	if !r.leave(s) {
		return false
	}
	if t.in != nil && t.next != nil {
		r.remove(t)
		r.append(t)
	}
	return true
}

// after returns who comes after s in an order in which each is met once; of nil, the first.
func (r *room[T]) after(s *seat[T]) *seat[T] {
	t := r.front
	if s != nil {
		if s.next != nil {
			return s.next
		}
		t = s.in.next
	}
	if t == nil {
		return nil
	}
	return t.first
}

// longest returns the tenant of which most wait; nil when nobody does.
func (r *room[T]) longest() (most *tenant[T]) {
	for t := r.front; t != nil; t = t.next {
		if most == nil || t.n > most.n {
			most = t
		}
	}
	return most
}
