package exchange

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/ebbkit/ebb/balance"
)

// Exchange carries messages between nodes. It may lose, delay, repeat and reorder them without
// saying so: readers notice by the numbers in the messages. All methods are safe for concurrent
// use. Package exchangetest has a suite for implementations.
type Exchange interface {
	// Publish sends a message to all subscribers of its subject, this node included. It does not
	// wait for the network. An error says that the message was not sent; the caller need not retry.
	Publish(s Subject, payload []byte) error
	// Subscribe calls receive for messages whose subject matches the filter: one call at a time, in
	// the order of arrival. Messages that are published after Subscribe has returned arrive, as far
	// as the engine can be reached. receive must not block; it may keep the payload.
	Subscribe(filter Subject, receive func(Message)) (cancel func(), err error)
	// Request sends a request to the node that serves the subject and returns the answer.
	Request(ctx context.Context, to Subject, payload []byte) ([]byte, error)
	// Serve calls answer for requests, possibly from several goroutines at once.
	Serve(at Subject, answer func(payload []byte) []byte) (cancel func(), err error)
	// OnReconnect calls reconnected whenever the engine can be reached again: messages may have
	// been lost meanwhile. reconnected must not block.
	OnReconnect(reconnected func()) (cancel func())
	// MaxPayload returns how many bytes a payload may have.
	MaxPayload() int
}

// Subject says what a message is about and which node's it is.
type Subject struct {
	Cluster string // fleets with different names do not hear each other
	// Kind is "row" (changed rows), "load" (heartbeat and load), "ack" (acknowledgements), "ask"
	// (demand), "sum" (a region's digest), or "snap" (requests for a snapshot).
	Kind   string
	Region string // of the node; empty for "snap"
	Node   balance.NodeID
}

// Message is what a subscriber receives.
type Message struct {
	Subject Subject
	Payload []byte
}

// String returns the subject as engines with tokens write it, such as "ebb.prod.row.nrt.worker-1".
// A byte other than a letter, a digit, "-" and "_" is escaped as in "%2E"; an empty part is "*".
// Subjects of kind "snap" have no region: "ebb.prod.snap.worker-1".
func (s Subject) String() string {
	parts := []string{s.Cluster, s.Kind, s.Region, string(s.Node)}
	if s.Kind == "snap" {
		parts = []string{s.Cluster, s.Kind, string(s.Node)}
	}
	var b strings.Builder
	b.WriteString("ebb")
	for _, p := range parts {
		b.WriteByte('.')
		if p == "" {
			b.WriteByte('*')
		}
		for i := range len(p) {
			if c := p[i]; plain(c) {
				b.WriteByte(c)
			} else {
				fmt.Fprintf(&b, "%%%02X", c)
			}
		}
	}
	return b.String()
}

func plain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// ParseSubject is the inverse of [Subject.String].
func ParseSubject(text string) (Subject, error) {
	parts := strings.Split(text, ".")
	for i, p := range parts {
		var b strings.Builder
		for k := 0; k < len(p); k++ {
			var c byte
			switch {
			case plain(p[k]):
				b.WriteByte(p[k])
			case p == "*":
			case p[k] == '%' && k+2 < len(p):
				if n, err := fmt.Sscanf(p[k+1:k+3], "%02X", &c); n != 1 || err != nil {
					return Subject{}, fmt.Errorf("exchange: subject %q: %q is no byte", text, p[k:k+3])
				}
				b.WriteByte(c)
				k += 2
			default:
				return Subject{}, fmt.Errorf("exchange: subject %q: character %q", text, p[k])
			}
		}
		parts[i] = b.String()
	}
	switch {
	case len(parts) == 5 && parts[0] == "ebb" && parts[2] != "snap":
		return Subject{parts[1], parts[2], parts[3], balance.NodeID(parts[4])}, nil
	case len(parts) == 4 && parts[0] == "ebb" && parts[2] == "snap":
		return Subject{parts[1], parts[2], "", balance.NodeID(parts[3])}, nil
	}
	return Subject{}, fmt.Errorf(
		"exchange: subject %q: want ebb.cluster.kind.region.node or ebb.cluster.snap.node", text,
	)
}

// Matches reports whether the subject matches the filter; an empty part of the filter matches any.
func (s Subject) Matches(filter Subject) bool {
	return (filter.Cluster == "" || filter.Cluster == s.Cluster) &&
		(filter.Kind == "" || filter.Kind == s.Kind) &&
		(filter.Region == "" || filter.Region == s.Region) &&
		(filter.Node == "" || filter.Node == s.Node)
}

// Store keeps the little that people write: apps, splits, bounds. It holds few keys, and no
// machines. All methods are safe for concurrent use.
type Store interface {
	// Get returns an entry; the error matches [ErrNotFound] when there is none.
	Get(ctx context.Context, key string) (Entry, error)
	// Put writes an entry and returns its revision. The revision argument is that of the entry to
	// replace, or 0 for a key that does not exist. If that is no longer so, the error matches
	// [ErrConflict], and the caller reads and decides again.
	Put(ctx context.Context, key string, value []byte, revision uint64) (uint64, error)
	// Delete removes an entry, checked like Put.
	Delete(ctx context.Context, key string, revision uint64) error
	// Watch calls changed with every existing entry, then with each change, one call at a time,
	// until ctx ends; then it returns nil. It may repeat an entry, and after an interruption it
	// repeats all. An entry that is not repeated was not deleted: only one with Deleted was.
	Watch(ctx context.Context, changed func(Entry)) error
}

// Entry is a value of a [Store].
type Entry struct {
	Key      string
	Value    []byte
	Revision uint64 // grows with each write to the store
	Deleted  bool
}

// The errors of a [Store].
var (
	ErrNotFound = errors.New("exchange: no such key")
	ErrConflict = errors.New("exchange: the entry has changed")
)
