package pool

import "sync/atomic"

// Memory bounds the bytes of bodies that are kept for another try, over all requests.
type Memory struct {
	Most int64
	used atomic.Int64
}

// Used returns how many bytes are reserved.
func (m *Memory) Used() int64 { return m.used.Load() }

func (m *Memory) reserve(n int64) bool {
	if m.used.Add(n) > m.Most {
		m.used.Add(-n)
		return false
	}
	return true
}

// replay keeps a body for another try: everything that was read, until some bytes are not kept.
type replay struct {
	memory   *Memory
	reserved atomic.Int64 // of memory
	keep     int          // how many bytes may be kept
	forget   atomic.Bool  // no other try follows: keep nothing more
	kept     []byte       // everything that was read, while the body is not spent
	spent    bool         // something was read that was not kept
}

// Retain keeps the first n bytes for another try, as far as memory allows.
func (r *replay) Retain(n int) {
	more := int64(n - r.keep)
	if more > 0 && r.memory.reserve(more) {
		r.keep = n
		r.reserved.Add(more)
	}
}

// Release gives the memory back.
func (r *replay) Release() {
	if n := r.reserved.Swap(0); n != 0 {
		r.memory.used.Add(-n)
	}
}

// ForgetRest stops keeping what is read from now on: no other try follows.
func (r *replay) ForgetRest() { r.forget.Store(true) }

// Held returns how much is kept.
func (r *replay) Held() int { return len(r.kept) }

// Covers reports whether a body of that length is kept as a whole.
func (r *replay) Covers(length int64) bool { return length > 0 && int64(r.keep) >= length }

// grow reserves memory up to size, for a body of n bytes.
func (r *replay) grow(size, n int) bool {
	more := int64(min(size, n)) - r.reserved.Load()
	if more > 0 && !r.memory.reserve(more) {
		return false
	}
	r.reserved.Add(max(more, 0))
	return true
}

// add keeps b; must keeps it even without memory. When something does not fit, keeping ends.
func (r *replay) add(b []byte, must bool) {
	switch {
	case len(b) == 0:
	case !r.spent && (must || !r.forget.Load() && len(r.kept)+len(b) <= r.keep):
		if r.kept == nil {
			r.kept = make([]byte, 0, max(len(b), min(r.keep, 4<<10)))
		}
		r.kept = append(r.kept, b...)
	default:
		r.spent, r.kept = true, nil
	}
}
