// Package delay emulates the links between regions on one machine: connections, datagrams and
// messages between two places arrive half a round trip after they were sent, in order, and at
// full throughput.
//
// Package cities knows how far apart real cities are. Links holds the delay of every pair and may
// change it while traffic flows. Nothing is lost or reordered and bandwidth is not limited,
// except by the bytes that may be on their way.
package delay

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/internal/cities"
)

// DialFunc is the type of [net.Dialer.DialContext].
type DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

// Links holds the delays between places, named by any strings, and the traffic on its way between
// them. The zero value has no delays and is ready to use. All methods are safe for concurrent use.
type Links struct {
	mu     sync.Mutex
	pairs  map[pair]*link
	sends  map[pair]*courier // by direction: from, to
	ends   map[any]func()    // how to end each open connection and relay at once
	done   chan struct{}     // closed by Close
	closed bool
	wg     sync.WaitGroup // every goroutine started here
}

type pair struct{ a, b string }

// link is the delay of one pair. Connections keep a pointer to it, so that a change reaches them.
type link struct{ rtt atomic.Int64 }

// half returns the delay of one direction.
func (k *link) half() time.Duration { return time.Duration(k.rtt.Load()) / 2 }

// NewLinks returns links with the round trip between each two of the given cities, as
// [cities.RoundTrip] has it.
func NewLinks(codes ...string) *Links {
	l := new(Links)
	for i, a := range codes {
		for _, b := range codes[:i] {
			rtt, _ := cities.RoundTrip(a, b)
			l.Set(a, b, rtt)
		}
	}
	return l
}

// Set makes rtt the round trip between a and b, in both directions; 0 or less means that everything
// passes straight through. Traffic that is on its way keeps its time of arrival, and later traffic
// never overtakes it. Connections that were opened while the delay was zero stay undelayed.
func (l *Links) Set(a, b string, rtt time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.link(a, b).rtt.Store(int64(max(0, rtt)))
}

// RTT returns the round trip between a and b; 0 when it was never set.
func (l *Links) RTT(a, b string) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Duration(l.link(a, b).rtt.Load())
}

// link returns the link of a pair in either order. l.mu is held.
func (l *Links) link(a, b string) *link {
	p := pair{min(a, b), max(a, b)}
	k := l.pairs[p]
	if k == nil {
		if l.pairs == nil {
			l.pairs = make(map[pair]*link)
		}
		k = new(link)
		l.pairs[p] = k
	}
	return k
}

// Dialer returns a dial function for connections from one place to another over TCP. See
// [Links.WrapDial].
func (l *Links) Dialer(from, to string) DialFunc {
	return l.WrapDial(from, to, new(net.Dialer).DialContext)
}

// WrapDial returns dial with the delay of a link: the far side sees the connection after half a
// round trip, and the caller gets it, or the error, after a whole one. The connection is delayed as
// by [Links.Conn].
func (l *Links) WrapDial(from, to string, dial DialFunc) DialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		l.mu.Lock()
		k := l.link(from, to)
		l.mu.Unlock()

		half, start := k.half(), time.Now()
		if err := l.sleepUntil(ctx, start.Add(half)); err != nil {
			return nil, err
		}
		c, err := dial(ctx, network, addr)
		if waitErr := l.sleepUntil(ctx, start.Add(2*half)); waitErr != nil {
			if c != nil {
				c.Close()
			}
			return nil, waitErr
		}
		if err != nil {
			return nil, err
		}
		return l.Conn(c, from, to), nil
	}
}

// sleepUntil waits for t, the end of ctx, or Close.
func (l *Links) sleepUntil(ctx context.Context, t time.Time) error {
	d := time.Until(t)
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-l.doneChan():
		return net.ErrClosed
	}
}

// Send calls f after half a round trip, for messages within a process. Calls from one place to
// another are made in the order in which they were sent, one at a time, on a goroutine that lives
// only while a message is on its way. Send itself never blocks, so the number of messages on their
// way is not bounded. After Close it does nothing. f may call Send, but not Close.
func (l *Links) Send(from, to string, f func()) {
	l.mu.Lock()
	k := l.link(from, to)
	c := l.sends[pair{from, to}]
	if c == nil {
		if l.sends == nil {
			l.sends = make(map[pair]*courier)
		}
		c = &courier{links: l, stop: l.doneLocked()}
		l.sends[pair{from, to}] = c
	}
	l.mu.Unlock()
	c.post(k.half(), f)
}

// Close ends everything at once: connections break, relays end, and traffic on its way is dropped.
// It returns when all goroutines have ended, which takes as long as a call made by [Links.Send]
// takes. A connection wrapped later is closed.
func (l *Links) Close() error {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.doneLocked())
	}
	ends := make([]func(), 0, len(l.ends))
	for _, end := range l.ends {
		ends = append(ends, end)
	}
	l.mu.Unlock()
	for _, end := range ends {
		end()
	}
	l.wg.Wait()
	return nil
}

func (l *Links) doneChan() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.doneLocked()
}

func (l *Links) doneLocked() chan struct{} {
	if l.done == nil {
		l.done = make(chan struct{})
	}
	return l.done
}

// enter counts a new goroutine; after Close it counts nothing and returns false.
func (l *Links) enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.wg.Add(1)
	return true
}

// register makes Close call end for key, and counts goroutines; after Close it does nothing and
// returns false.
func (l *Links) register(key any, end func(), goroutines int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	if l.ends == nil {
		l.ends = make(map[any]func())
	}
	l.ends[key] = end
	l.wg.Add(goroutines)
	return true
}

func (l *Links) unregister(key any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.ends, key)
}
