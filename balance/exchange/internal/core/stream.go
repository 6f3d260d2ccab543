package core

import (
	"cmp"
	"maps"
	"slices"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/exchange/internal/wire"
)

const (
	// heldMessages and heldRows bound what is kept of one owner while a snapshot is in flight.
	// Messages beyond them are dropped, which is a gap like any other.
	heldMessages, heldRows = 256, 20_000
	// maxParts bounds a snapshot: 100,000 machines need some 10 parts of 1 MiB.
	maxParts = 1000
)

// stream puts the rows of one incarnation of an owner in order.
//
// Invariant: while whole holds, the rows that were handed out are those of the owner when it had
// sent message number applied.
type stream struct {
	applied uint64
	whole   bool
	ahead   uint64                // the newest message that is known to have been sent
	held    map[uint64][]wire.Row // above applied
	rows    int                   // in held
	keys    map[balance.MachineKey]struct{}
	index   map[uint32]balance.MachineKey

	cut   uint64 // of the snapshot that is being gathered
	parts int
	part  int // the next part
	got   []wire.Row
}

// renew begins the stream of a later incarnation. The rows of the earlier one stand until a
// snapshot says which of them still exist; if there are none, nothing is missing yet.
func (s *stream) renew() {
	*s = stream{
		keys: s.keys, whole: len(s.keys) == 0,
		held: map[uint64][]wire.Row{}, index: map[uint32]balance.MachineKey{},
	}
	if s.keys == nil {
		s.keys = map[balance.MachineKey]struct{}{}
	}
}

// behind reports whether something is missing.
func (s *stream) behind() bool { return !s.whole || s.ahead > s.applied }

// put adds a message of rows and returns the rows to apply now, in order.
func (s *stream) put(m *wire.Rows) (rows []wire.Row) {
	s.ahead = max(s.ahead, m.Seq)
	if m.Seq <= s.applied && s.whole || keyless(m.Rows) {
		return nil // old, or not applicable: a snapshot is requested
	}
	if s.held[m.Seq] == nil {
		if len(s.held) >= heldMessages || s.rows+len(m.Rows) > heldRows {
			return nil
		}
		s.held[m.Seq] = m.Rows
		s.rows += len(m.Rows)
	}
	return s.drain(nil)
}

// keyless reports whether some row does not even say which machine it is of.
func keyless(rows []wire.Row) bool {
	return slices.ContainsFunc(rows, nameless)
}

func nameless(r wire.Row) bool { return r.Err != nil && r.Machine.Key() == balance.MachineKey{} }

// drain appends the held rows that are next in order.
func (s *stream) drain(rows []wire.Row) []wire.Row {
	for s.whole {
		next, ok := s.held[s.applied+1]
		if !ok {
			break
		}
		s.drop(s.applied + 1)
		s.applied++
		for _, r := range next {
			s.note(&r)
		}
		rows = append(rows, next...)
	}
	return rows
}

func (s *stream) drop(seq uint64) {
	s.rows -= len(s.held[seq])
	delete(s.held, seq)
}

// note records the machine that a row is of.
func (s *stream) note(r *wire.Row) {
	k := r.Machine.Key()
	if r.Removed {
		delete(s.keys, k)
		delete(s.index, r.Index)
		return
	}
	s.keys[k] = struct{}{}
	if r.Err == nil {
		s.index[r.Index] = k
	}
}

// result says what became of a part of a snapshot.
type result uint8

const (
	partRefused result = iota // of another snapshot, or not the part that was wanted
	partTaken                 // the next one has to be requested
	partLast                  // the snapshot is complete, and its rows are to be applied
)

// snapshot adds a part. A snapshot that is older than what was applied changes nothing.
func (s *stream) snapshot(m *wire.Snapshot) (rows []wire.Row, r result) {
	if m.Part == 0 {
		s.cut, s.parts, s.part, s.got = m.Seq, m.Parts, 0, nil
	}
	if m.Seq != s.cut || m.Part != s.part || m.Parts != s.parts || m.Parts > maxParts {
		s.forget()
		return nil, partRefused
	}
	s.got = append(s.got, m.Rows...)
	s.part++
	if s.part < s.parts {
		return nil, partTaken
	}
	rows, s.got = s.got, nil
	defer s.forget()
	if m.Seq < s.applied {
		if !s.whole {
			return nil, partRefused
		}
		return nil, partLast
	}
	rows = s.missing(rows)
	s.applied, s.whole, s.ahead = m.Seq, true, max(s.ahead, m.Seq)
	clear(s.index)
	for i := range rows {
		s.note(&rows[i])
	}
	for seq := range s.held {
		if seq <= s.applied {
			s.drop(seq)
		}
	}
	return s.drain(rows), partLast
}

// missing appends the removal of each known machine that is not in the snapshot. If some row does
// not say which machine it is of, nothing is removed.
func (s *stream) missing(rows []wire.Row) []wire.Row {
	if keyless(rows) {
		return slices.DeleteFunc(rows, nameless)
	}
	left := maps.Clone(s.keys)
	for _, r := range rows {
		delete(left, r.Machine.Key())
	}
	for _, k := range sortedKeys(left) {
		rows = append(rows, wire.Row{Removed: true, Machine: balance.Machine{App: k.App, ID: k.ID}})
	}
	return rows
}

// next returns the part that is wanted, and the snapshot that it belongs to.
func (s *stream) next() (part int, cut uint64) {
	if s.part == 0 {
		return 0, 0
	}
	return s.part, s.cut
}

// forget drops a partly received snapshot.
func (s *stream) forget() { s.cut, s.parts, s.part, s.got = 0, 0, 0, nil }

func sortedKeys[V any](m map[balance.MachineKey]V) []balance.MachineKey {
	return slices.SortedFunc(maps.Keys(m), func(a, b balance.MachineKey) int {
		return cmp.Or(cmp.Compare(a.App, b.App), cmp.Compare(a.ID, b.ID))
	})
}
