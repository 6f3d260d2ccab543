// Package waitroom holds the pure parts of a waiting room: who waits and whose turn it is, how fast
// they are served, and which requests in flight count as demand.
package waitroom

// List is a waiting room: a queue for each tenant, in order of places, from which anybody may leave
// at any time. The tenants take turns: the first of one queue, then the first of the next. Within a
// queue equal places are in order of arrival. Requests without a tenant belong to one tenant.
// Joining and leaving cost O(1); joining at an old place costs O(those before it in its queue),
// which are few, since a returning request has been near the front. The zero value is an empty
// room. It is not safe for concurrent use.
//
// Invariants: within a queue places never decrease from front to back; n is the number of seats in
// all queues; no queue of the list is empty; a seat is in at most one room.
type List[T any] struct {
	N           int
	front, back *Tenant[T] // whose turn is next, and last
	Tenants     int        // in that list
	named       map[string]*Tenant[T]
	unnamed     Tenant[T]
	look        uint64 // counts the looks at the list
}

// Tenant is the queue of one tenant.
type Tenant[T any] struct {
	name        string
	in          *List[T] // nil while nobody waits
	first, Last *Seat[T]
	N           int
	prev, next  *Tenant[T]

	look uint64   // the last look that came here
	at   *Seat[T] // whose turn it is in that look; nil once it is through this queue
}

// Seat is one waiting request. The links belong to the room.
type Seat[T any] struct {
	Value      T
	Bytes      int  // that it holds, see Room
	Insists    bool // it waits for particular machines, see Room
	place      uint64
	prev, next *Seat[T]
	In         *Tenant[T]
}

// Join seats s in a tenant's queue: behind all whose place is not greater. If nobody of the tenant
// waited, its turn comes last; if s returns to an old place, first, because that turn was not used.
func (r *List[T]) Join(s *Seat[T], name string, place uint64, returns bool) {
	if s.In != nil {
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
		r.Tenants++
	}
	s.place, s.In = place, t
	t.N++
	r.N++
	if t.Last == nil || t.Last.place <= place {
		t.link(t.Last, s, nil)
		return
	}
	next := t.first
	for next.place <= place {
		next = next.next
	}
	t.link(next.prev, s, next)
}

func (r *List[T]) tenant(name string) *Tenant[T] {
	if name == "" {
		return &r.unnamed
	}
	t := r.named[name]
	if t == nil {
		if r.named == nil {
			r.named = map[string]*Tenant[T]{}
		}
		t = &Tenant[T]{name: name}
		r.named[name] = t
	}
	return t
}

// Waiting returns how many of a tenant wait.
func (r *List[T]) Waiting(name string) int {
	switch t := r.named[name]; {
	case name == "":
		return r.unnamed.N
	case t != nil:
		return t.N
	}
	return 0
}

// append puts t last in the list.
func (r *List[T]) append(t *Tenant[T]) {
	t.prev, t.next = r.back, nil
	if r.back == nil {
		r.front = t
	} else {
		r.back.next = t
	}
	r.back = t
	r.Tenants++
}

// remove takes t out of the list.
func (r *List[T]) remove(t *Tenant[T]) {
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
	r.Tenants--
}

func (t *Tenant[T]) link(prev, s, next *Seat[T]) {
	s.prev, s.next = prev, next
	if prev == nil {
		t.first = s
	} else {
		prev.next = s
	}
	if next == nil {
		t.Last = s
	} else {
		next.prev = s
	}
}

// Leave removes s and reports whether it was in the list: of two goroutines that want to end a
// wait, one gets true.
func (r *List[T]) Leave(s *Seat[T]) bool {
	t := s.In
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
		t.Last = s.prev
	} else {
		s.next.prev = s.prev
	}
	s.prev, s.next, s.In = nil, nil, nil
	t.N--
	r.N--
	if t.N == 0 {
		r.remove(t)
		t.in = nil
		delete(r.named, t.name)
	}
	return true
}

// Begin begins a look at the waiting requests, in the order in which to serve them; see
// [List.Turn].
func (r *List[T]) Begin() { r.look++ }

// Turn returns whose turn it is in the present look: the same seat until it leaves, is served or
// passed over. It is nil when all have been looked at. A request that arrives meanwhile may be left
// out.
func (r *List[T]) Turn() *Seat[T] {
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

// Pass skips s in the present look. Its tenant keeps its turn.
func (r *List[T]) Pass(s *Seat[T]) {
	if t := s.In; t != nil && t.at == s {
		t.at = s.next
	}
}

// Served removes s as Leave does; its tenant's next turn comes after that of all others.
func (r *List[T]) Served(s *Seat[T]) bool {
	t := s.In
	if !r.Leave(s) {
		return false
	}
	if t.in != nil && t.next != nil {
		r.remove(t)
		r.append(t)
	}
	return true
}

// After returns the seat after s, in an order that meets each once; for nil, the first.
func (r *List[T]) After(s *Seat[T]) *Seat[T] {
	t := r.front
	if s != nil {
		if s.next != nil {
			return s.next
		}
		t = s.In.next
	}
	if t == nil {
		return nil
	}
	return t.first
}

// Longest returns the tenant with most waiting requests; nil when nobody waits.
func (r *List[T]) Longest() (most *Tenant[T]) {
	for t := r.front; t != nil; t = t.next {
		if most == nil || t.N > most.N {
			most = t
		}
	}
	return most
}
