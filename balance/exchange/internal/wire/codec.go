// Package wire encodes the messages between nodes.
//
// A message is a version byte followed by fields. The fields use the encoding of protocol buffers
// (a varint of number<<3|type, then the value). Only varints and byte strings are written; on
// reading, unknown fields of every type are skipped. So this release ignores a field that a later
// one adds, and an absent field is zero. Numbers are never reused, and the version byte changes
// only when an old reader would misunderstand a message rather than miss a part of it.
//
// Decoding never panics, and allocates no more than a small multiple of its input. Apart from
// unknown fields, it returns an error for whatever this package would not have written.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"unicode/utf8"
)

// Version is the first byte of every message.
const Version = 1

const (
	// MaxMessage bounds a message: NATS takes 1 MiB by default.
	MaxMessage = 1 << 20
	// maxName bounds an ID, a region, a revision or an address.
	maxName = 255
	// maxFault bounds the description of a fault. Longer ones are cut when written.
	maxFault = 1024
)

// ErrVersion says that a message is of a version that this release does not read.
var ErrVersion = errors.New("exchange: version not known")

// Types of protocol buffers.
const (
	typeVarint  = 0
	typeFixed64 = 1
	typeBytes   = 2
	typeFixed32 = 5
)

// encoder appends fields. Zero values are left out.
type encoder struct{ b []byte }

func (e *encoder) tag(field, typ int) { e.b = binary.AppendUvarint(e.b, uint64(field<<3|typ)) }

func (e *encoder) uint(field int, v uint64) {
	if v == 0 {
		return
	}
	e.tag(field, typeVarint)
	e.b = binary.AppendUvarint(e.b, v)
}

func (e *encoder) bool(field int, v bool) {
	if v {
		e.uint(field, 1)
	}
}

func (e *encoder) text(field int, s string) {
	if s == "" {
		return
	}
	e.tag(field, typeBytes)
	e.b = binary.AppendUvarint(e.b, uint64(len(s)))
	e.b = append(e.b, s...)
}

// message appends a nested message; unlike other values an empty one is written.
func (e *encoder) message(field int, write func(*encoder)) {
	e.tag(field, typeBytes)
	start := len(e.b)
	write(e)
	var size [binary.MaxVarintLen64]byte
	n := binary.PutUvarint(size[:], uint64(len(e.b)-start))
	e.b = slices.Insert(e.b, start, size[:n]...)
}

// raw appends an encoded nested message.
func (e *encoder) raw(field int, b []byte) {
	e.tag(field, typeBytes)
	e.b = binary.AppendUvarint(e.b, uint64(len(b)))
	e.b = append(e.b, b...)
}

// decoder reads fields one after the other.
type decoder struct {
	b     []byte
	field int
	typ   int
	num   uint64 // of a varint
	bytes []byte // of a byte string; it aliases the input
	err   error
}

// next reads a field and reports false at the end or at an error.
func (d *decoder) next() bool {
	if d.err != nil || len(d.b) == 0 {
		return false
	}
	key, ok := d.varint()
	if !ok {
		return false
	}
	d.field, d.typ = int(key>>3), int(key&7)
	if d.field == 0 || key>>3 > 1<<29-1 {
		return d.fail("field number %d", key>>3)
	}
	d.num, d.bytes = 0, nil
	switch d.typ {
	case typeVarint:
		d.num, ok = d.varint()
		return ok
	case typeFixed64:
		return d.skip(8)
	case typeFixed32:
		return d.skip(4)
	case typeBytes:
		n, ok := d.varint()
		if !ok {
			return false
		}
		if n > uint64(len(d.b)) {
			return d.fail("field %d of %d bytes where %d are left", d.field, n, len(d.b))
		}
		d.bytes, d.b = d.b[:n:n], d.b[n:]
		return true
	}
	return d.fail("field %d of unknown type %d", d.field, d.typ)
}

func (d *decoder) varint() (uint64, bool) {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		return 0, d.fail("a number that does not end")
	}
	d.b = d.b[n:]
	return v, true
}

func (d *decoder) skip(n int) bool {
	if len(d.b) < n {
		return d.fail("field %d of %d bytes where %d are left", d.field, n, len(d.b))
	}
	d.b = d.b[n:]
	return true
}

func (d *decoder) fail(format string, args ...any) bool {
	if d.err == nil {
		d.err = fmt.Errorf("exchange: message: "+format, args...)
	}
	return false
}

// is fails unless the current field has the type.
func (d *decoder) is(typ int) bool {
	return d.typ == typ || d.fail("field %d has type %d: want %d", d.field, d.typ, typ)
}

func (d *decoder) uint(into *uint64) {
	if d.is(typeVarint) {
		*into = d.num
	}
}

// int reads a non-negative number that fits 31 bits.
func (d *decoder) int(into *int) {
	if !d.is(typeVarint) {
		return
	}
	if d.num > math.MaxInt32 {
		d.fail("field %d is %d: too large", d.field, d.num)
		return
	}
	*into = int(d.num)
}

func (d *decoder) bool(into *bool) {
	if d.is(typeVarint) {
		*into = d.num != 0
	}
}

// text reads a string of at most that many bytes.
func (d *decoder) text(into *string, most int) {
	switch {
	case !d.is(typeBytes):
	case len(d.bytes) > most:
		d.fail("field %d has %d bytes: at most %d", d.field, len(d.bytes), most)
	case !utf8.Valid(d.bytes):
		d.fail("field %d is no UTF-8", d.field)
	default:
		*into = string(d.bytes)
	}
}

// small reads a number that fits a smaller type.
func small[T uint8 | uint16 | uint32](d *decoder, into *T) {
	if !d.is(typeVarint) {
		return
	}
	if d.num > uint64(^T(0)) {
		d.fail("field %d is %d: too large", d.field, d.num)
		return
	}
	*into = T(d.num)
}

// named reads a name into a string type.
func named[T ~string](d *decoder, into *T) {
	var s string
	d.text(&s, maxName)
	*into = T(s)
}

// enum reads one of a set of small values; callers check what they mean.
func enum[T ~uint8](d *decoder, into *T) {
	var v uint8
	small(d, &v)
	*into = T(v)
}

// cut shortens a fault to the length that is sent, between two characters.
func cut(s string) string {
	if len(s) <= maxFault {
		return s
	}
	n := maxFault
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
