package orders

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale"
)

// Kind names an order.
type Kind string

// The orders.
const (
	KindStart  Kind = "start"
	KindReady  Kind = "ready"
	KindRecall Kind = "recall"
	KindStop   Kind = "stop"
	KindApp    Kind = "app"
	KindSlots  Kind = "slots"
)

// Order is one line from the node that asks.
type Order struct {
	// Token identifies an order that may arrive twice, so that it is carried out once. Empty: it is
	// carried out each time.
	Token string `json:",omitempty"`
	// Machine is the row as the node that asks has it; for start, ready, recall and stop.
	Machine *balance.Machine `json:",omitempty"`
	Stop    *downscale.Order `json:",omitempty"`
	App     balance.AppID    `json:",omitempty"` // for app
	Ask     *Ask             `json:",omitempty"` // for slots
	Back    *balance.Grant   `json:",omitempty"` // for slots
}

// Ask says how many of an app's requests wait at the node that sends it, counting only the share
// meant for the node that reads it.
type Ask struct {
	App    balance.AppID
	Parked int
}

// Reply is one line from the node that is asked.
type Reply struct {
	Answer *balance.StartAnswer `json:",omitempty"` // for start
	Row    *Row                 `json:",omitempty"`
	App    *balance.App         `json:",omitempty"`
	Grant  *balance.Grant       `json:",omitempty"`
	Err    *Error               `json:",omitempty"` // the order is over
	// Done says that the order is over without an error.
	Done bool `json:",omitempty"`
}

// Row is a machine's row as its owner has it, with the owner's incarnation.
type Row struct {
	Machine     balance.Machine
	Incarnation uint64
}

// maxLine bounds a line in bytes: many times what any row needs.
const maxLine = 256 << 10

// parse reads one line of JSON.
func parse[T any](line []byte) (T, error) {
	var v T
	if err := json.Unmarshal(line, &v); err != nil {
		return v, fmt.Errorf("orders: a line that is none: %w", err)
	}
	return v, nil
}

// read reads the next line from in; io.EOF when there is none.
func read[T any](in *bufio.Reader) (v T, err error) {
	line, err := readLine(in)
	if err != nil {
		return v, err
	}
	return parse[T](line)
}

func readLine(in *bufio.Reader) (line []byte, err error) {
	for {
		part, err := in.ReadSlice('\n')
		switch {
		case len(line)+len(part) > maxLine:
			return nil, fmt.Errorf("orders: a line of more than %d bytes", maxLine)
		case err == nil && line == nil:
			return part, nil
		}
		line = append(line, part...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case err == io.EOF && len(line) > 0:
			return nil, io.ErrUnexpectedEOF
		default:
			return line, err
		}
	}
}

// line returns v as it is sent.
func line(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("orders: %w", err)
	}
	return append(b, '\n'), nil
}

// Error is an error of the node that was asked. It matches what its cause matched there, as far as
// callers distinguish errors: see errorKinds.
type Error struct {
	Kinds []string `json:",omitempty"`
	Text  string
	// After is when to retry, if the error is temporary and says so.
	After time.Duration `json:",omitempty"`
}

// errorKinds are the errors whose identity is kept across the hop.
var errorKinds = map[string]error{
	"busy":        downscale.ErrBusy,
	"no-app":      balance.ErrNoApp,
	"runs":        balance.ErrRuns,
	"unsupported": errors.ErrUnsupported,
	"deadline":    context.DeadlineExceeded,
	"canceled":    context.Canceled,
	"unknown":     ErrUnknown,
	"not-here":    ErrNotHere,
}

// kindPasses marks errors with a method RetryAfter.
const kindPasses = "passes"

var (
	// ErrUnknown says that the node that was asked does not know the order: it runs another
	// release.
	ErrUnknown = errors.New("orders: no such order")
	// ErrNotHere says that the node that was asked does not own the machine.
	ErrNotHere = errors.New("orders: the machine is not this node's")
)

// retrier is a temporary error, which says when to retry.
type retrier interface {
	error
	RetryAfter() time.Duration
}

// errorOf returns err in the form in which it is sent.
func errorOf(err error) *Error {
	e := &Error{Text: err.Error()}
	for kind, is := range errorKinds {
		if errors.Is(err, is) {
			e.Kinds = append(e.Kinds, kind)
		}
	}
	var r retrier
	if errors.As(err, &r) {
		e.Kinds, e.After = append(e.Kinds, kindPasses), r.RetryAfter()
	}
	return e
}

// err returns the error that the caller gets.
func (e *Error) err() error {
	for _, k := range e.Kinds {
		if k == kindPasses {
			return passing{e}
		}
	}
	return e
}

func (e *Error) Error() string { return e.Text }

// Is reports whether the cause matched target at the node that was asked.
func (e *Error) Is(target error) bool {
	for _, k := range e.Kinds {
		if is, ok := errorKinds[k]; ok && is == target {
			return true
		}
	}
	return false
}

// passing is an [Error] that is temporary.
type passing struct{ of *Error }

func (p passing) Error() string { return p.of.Text }

func (p passing) Unwrap() error { return p.of }

func (p passing) RetryAfter() time.Duration { return p.of.After }
