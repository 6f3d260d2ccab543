// Package queue holds what is on its way over an emulated link: values and bytes that are due some
// time after they entered, in order. It is pure.
package queue

import (
	"iter"
	"time"
)

// Line is a queue of values: each is due some time after it entered, and none overtakes another.
// The zero value is empty.
type Line[T any] struct {
	items []item[T] // due times never decrease
	head  int       // items before it are gone
	last  time.Time // due time of the newest item there ever was
}

type item[T any] struct {
	due   time.Time
	value T
}

// Len returns how many values wait.
func (l *Line[T]) Len() int { return len(l.items) - l.head }

// Push adds v, due after the given delay, but not before what entered earlier: a link whose delay
// shrinks keeps the order.
func (l *Line[T]) Push(now time.Time, after time.Duration, v T) {
	due := now.Add(after)
	if due.Before(l.last) {
		due = l.last
	}
	l.last = due
	// The used part is moved over once it is half of the slice: constant work per item on average.
	if l.head > 0 && l.head >= len(l.items)/2 && len(l.items) == cap(l.items) {
		n := copy(l.items, l.items[l.head:])
		clear(l.items[n:])
		l.items, l.head = l.items[:n], 0
	}
	l.items = append(l.items, item[T]{due: due, value: v})
}

// Next returns when the oldest item is due. ok is false when the line is empty.
func (l *Line[T]) Next() (due time.Time, ok bool) {
	if l.head == len(l.items) {
		return time.Time{}, false
	}
	return l.items[l.head].due, true
}

// first returns the oldest item, which must exist, for changing it in place.
func (l *Line[T]) first() *T { return &l.items[l.head].value }

// all iterates over the items and when they are due, oldest first.
func (l *Line[T]) all() iter.Seq2[time.Time, *T] {
	return func(yield func(time.Time, *T) bool) {
		for i := l.head; i < len(l.items); i++ {
			if !yield(l.items[i].due, &l.items[i].value) {
				return
			}
		}
	}
}

// Pop removes the oldest item, which must exist.
func (l *Line[T]) Pop() T {
	v := l.items[l.head].value
	l.items[l.head] = item[T]{}
	l.head++
	if l.head == len(l.items) {
		l.items, l.head = l.items[:0], 0
	}
	return v
}
