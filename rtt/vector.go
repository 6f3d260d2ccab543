package rtt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Vector is what one node measured to all of its peers: one row of the matrix. Nodes exchange vectors however they like
// (on replies, over a bus, through a store) with [Mesh.Export] and [Mesh.Import]. All times in it are differences, so
// nobody's clock matters. A Vector is a value; nobody changes one that was exported.
type Vector struct {
	From        string // node ID
	Region      string
	Incarnation uint64  // of the node; a higher one replaces all of the older ones
	Version     uint64  // rises within an incarnation when something changed that is worth sending, and every 10 s
	Entries     []Entry // by ascending To, each To once
}

// Entry is one pair of a vector.
type Entry struct {
	To      string // node ID
	Region  string
	Base    time.Duration // 0 means never measured
	P90     time.Duration
	LossOut Fraction
	LossIn  Fraction
	Loss    Fraction
	Samples int
	Age     time.Duration // of the last sample, when the vector was exported
	State   State
	Source  Source
	Kernel  bool
}

func (e Entry) stat(since time.Duration) Stat {
	s := Stat{
		Base: e.Base, P90: e.P90, Jitter: e.P90 - e.Base, Loss: e.Loss, LossOut: e.LossOut, LossIn: e.LossIn,
		Samples: e.Samples, Age: e.Age + since, State: e.State, Source: e.Source, Kernel: e.Kernel, Confidence: ConfidenceLow,
	}
	if s.State == StateFresh && since > sharedFresh {
		s.State = StateStale
	}
	return s
}

func entryOf(n Node, s Stat) Entry {
	return Entry{
		To: n.ID, Region: n.Region, Base: s.Base, P90: s.P90, LossOut: s.LossOut, LossIn: s.LossIn, Loss: s.Loss,
		Samples: s.Samples, Age: s.Age, State: s.State, Source: s.Source, Kernel: s.Kernel,
	}
}

const (
	maxName       = 255  // bytes of a node ID or a region
	maxEntries    = 4096 // of a vector, and vectors remembered
	maxVectorSize = 1 << 20
	// sharedFresh: a vector is sent anew every 10 s, so one that is 30 s old missed two.
	sharedFresh = 30 * time.Second
	// sharedKept is after how long a silent node's vector is forgotten.
	sharedKept = 10 * time.Minute
)

// Validate returns an error that says what cannot be true about v, or nil. Import does it too.
func (v *Vector) Validate() error {
	if v.From == "" || len(v.From) > maxName || len(v.Region) > maxName {
		return fmt.Errorf("rtt: vector from %.40q: an ID has 1 to %d bytes, a region at most that", v.From, maxName)
	}
	if len(v.Entries) > maxEntries {
		return fmt.Errorf("rtt: vector from %q has %d entries, at most %d are taken", v.From, len(v.Entries), maxEntries)
	}
	for i, e := range v.Entries {
		switch {
		case e.To == "" || len(e.To) > maxName || len(e.Region) > maxName:
			return fmt.Errorf("rtt: vector from %q: entry %d has a bad name", v.From, i)
		case i > 0 && v.Entries[i-1].To >= e.To:
			return fmt.Errorf("rtt: vector from %q: entry %d, %q, is out of order", v.From, i, e.To)
		case e.Base < 0 || e.Base > maxRTT || e.P90 < e.Base || e.P90 > maxRTT:
			return fmt.Errorf("rtt: vector from %q: entry %q has base %v and p90 %v", v.From, e.To, e.Base, e.P90)
		case e.Age < 0 || e.Samples < 0 || e.State > StateLost || e.Source > SourceShared:
			return fmt.Errorf("rtt: vector from %q: entry %q has age %v, %d samples, state %d, source %d",
				v.From, e.To, e.Age, e.Samples, e.State, e.Source)
		case e.Base == 0 && e.State != StateUnknown:
			return fmt.Errorf("rtt: vector from %q: entry %q is %v without a base", v.From, e.To, e.State)
		case bad(e.Loss) || bad(e.LossOut) || bad(e.LossIn):
			return fmt.Errorf("rtt: vector from %q: entry %q lost more than it counted", v.From, e.To)
		}
	}
	return nil
}

func bad(f Fraction) bool { return f.Lost > f.N }

// newer reports whether v replaces old.
func (v *Vector) newer(old *Vector) bool {
	if v.Incarnation != old.Incarnation {
		return v.Incarnation > old.Incarnation
	}
	return v.Version > old.Version
}

// find returns the entry for to, or nil.
func (v *Vector) find(to string) *Entry {
	i, ok := slices.BinarySearchFunc(v.Entries, to, func(e Entry, to string) int { return strings.Compare(e.To, to) })
	if !ok {
		return nil
	}
	return &v.Entries[i]
}

const vectorFormat = 1

// AppendBinary appends v in a compact form of about 30 bytes and two names per entry. It implements
// [encoding.BinaryAppender]. A [Vector] also passes through encoding/json, five times as long.
func (v Vector) AppendBinary(b []byte) ([]byte, error) {
	if err := v.Validate(); err != nil {
		return b, err
	}
	b = append(b, vectorFormat)
	b = appendString(b, v.From)
	b = appendString(b, v.Region)
	for _, u := range []uint64{v.Incarnation, v.Version, uint64(len(v.Entries))} {
		b = binary.AppendUvarint(b, u)
	}
	for _, e := range v.Entries {
		b = appendString(b, e.To)
		b = appendString(b, e.Region)
		kernel := byte(0)
		if e.Kernel {
			kernel = 1
		}
		b = append(b, byte(e.State), byte(e.Source), kernel)
		for _, u := range []uint64{
			uint64(e.Base), uint64(e.P90 - e.Base), uint64(e.Age), uint64(e.Samples),
			uint64(e.Loss.Lost), uint64(e.Loss.N), uint64(e.LossOut.Lost), uint64(e.LossOut.N), uint64(e.LossIn.Lost), uint64(e.LossIn.N),
		} {
			b = binary.AppendUvarint(b, u)
		}
	}
	return b, nil
}

// MarshalBinary implements [encoding.BinaryMarshaler].
func (v Vector) MarshalBinary() ([]byte, error) { return v.AppendBinary(nil) }

func appendString(b []byte, s string) []byte {
	return append(append(b, byte(len(s))), s...)
}

var errVector = errors.New("rtt: vector is cut short or malformed")

// UnmarshalBinary reads what AppendBinary wrote. It takes at most 1 MiB, and the result is valid. On an error v is
// unchanged.
func (v *Vector) UnmarshalBinary(b []byte) error {
	if len(b) > maxVectorSize {
		return fmt.Errorf("rtt: vector of %d bytes, at most %d are taken", len(b), maxVectorSize)
	}
	r := reader{b: b}
	if r.byte() != vectorFormat {
		return errVector
	}
	var w Vector
	w.From, w.Region = r.string(), r.string()
	w.Incarnation, w.Version = r.uint(), r.uint()
	n := r.uint()
	if r.failed || n > maxEntries || n > uint64(len(r.b)) {
		return errVector
	}
	w.Entries = make([]Entry, n)
	for i := range w.Entries {
		e := &w.Entries[i]
		e.To, e.Region = r.string(), r.string()
		e.State, e.Source, e.Kernel = State(r.byte()), Source(r.byte()), r.byte() == 1
		e.Base = r.duration()
		e.P90 = e.Base + r.duration()
		e.Age = r.duration()
		e.Samples = int(uint32(r.uint()) & (1<<31 - 1))
		for _, f := range []*Fraction{&e.Loss, &e.LossOut, &e.LossIn} {
			f.Lost, f.N = uint32(r.uint()), uint32(r.uint())
		}
	}
	if r.failed || len(r.b) > 0 {
		return errVector
	}
	if err := w.Validate(); err != nil {
		return err
	}
	*v = w
	return nil
}

// reader takes a byte string apart; after the first failure everything is zero.
type reader struct {
	b      []byte
	failed bool
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.failed = true
		return 0
	}
	x := r.b[0]
	r.b = r.b[1:]
	return x
}

func (r *reader) uint() uint64 {
	x, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.failed, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return x
}

func (r *reader) duration() time.Duration {
	x := r.uint()
	if x > uint64(1000*time.Hour) {
		r.failed = true
		return 0
	}
	return time.Duration(x)
}

func (r *reader) string() string {
	n := int(r.byte())
	if n > len(r.b) {
		r.failed, r.b = true, nil
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}

// gathered is a vector with the time it came in.
type gathered struct {
	*Vector
	at time.Time
}

// vectors keeps the newest vector of every node. Taking in is commutative, associative and idempotent, since the
// newest (incarnation, version) wins as a whole. Not safe for concurrent use.
type vectors struct{ of map[string]gathered }

// take remembers v if it is newer than what is known and reports whether it was. v must be valid and not change.
func (s *vectors) take(now time.Time, v *Vector) bool {
	if s.of == nil {
		s.of = make(map[string]gathered)
	}
	old, ok := s.of[v.From]
	if ok && !v.newer(old.Vector) {
		return false
	}
	if !ok && len(s.of) >= maxEntries {
		s.tidy(now)
		if len(s.of) >= maxEntries {
			return false
		}
	}
	s.of[v.From] = gathered{v, now}
	return true
}

// tidy forgets the vectors of nodes that were silent for long.
func (s *vectors) tidy(now time.Time) {
	for id, g := range s.of {
		if now.Sub(g.at) > sharedKept {
			delete(s.of, id)
		}
	}
}

// vectorEvery is how often a vector gets a new version although nothing moved, so that receivers know it is alive.
const vectorEvery = 10 * time.Second

// worthSending reports whether the entries differ by more than max(1 ms, 5 %) of a base, or in a state or a node.
func worthSending(old, now []Entry) bool {
	if len(old) != len(now) {
		return true
	}
	for i := range now {
		a, b := &old[i], &now[i]
		d := a.Base - b.Base
		if limit := max(time.Millisecond, a.Base/20); a.To != b.To || a.State != b.State || a.Region != b.Region || d > limit || -d > limit {
			return true
		}
	}
	return false
}
