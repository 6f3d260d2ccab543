package longconn

import (
	"math/bits"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/pool"
	"github.com/ebbkit/ebb/balance"
)

// Register tracks the long connections to machines, by machine and class. The zero value is ready.
type Register struct {
	mu       sync.Mutex // taken twice in the life of a long connection, and by queries
	machines map[balance.MachineKey]*longs
}

// longs are the long connections of one machine, by class.
type longs [classCount]map[*long]struct{}

const classCount = 4

// long is one connection in the register. It leaves the register before its gate, so Long never
// exceeds the number of requests in flight.
type long struct {
	in       *Register
	machine  balance.MachineKey
	class    balance.Class
	notified bool        // in.mu is held
	data     atomic.Bool // data has passed since the last look
	// the same for the request's messages where they are followed separately; nil: they are not
	asked *atomic.Bool
	quiet time.Time // when a look last found data, or of the first look; in.mu is held
	endable
}

// follow notes whether data has passed. It reads no clock.
func (l *long) follow(f *hop.Frames) {
	if f.Data {
		f.Data = false
		if !l.data.Load() {
			l.data.Store(true)
		}
	}
}

// idle reports whether no data has passed for that long, to the precision of the interval between
// calls. in.mu is held.
func (l *long) idle(now time.Time, after time.Duration) bool {
	data := l.data.Swap(false)
	if l.asked != nil && l.asked.Swap(false) {
		data = true
	}
	if data || l.quiet.IsZero() {
		l.quiet = now
	}
	return now.Sub(l.quiet) >= after
}

// endable is a connection that can be told to end.
type endable interface {
	// notify ends the connection at once or at the next safe place; what has not ended by itself after
	// force is cut. It does not block.
	notify(force time.Duration)
	// lasts reports whether the exchange is a long connection by now.
	lasts() bool
}

// Long returns how many connections of these classes a machine has: at most as many as are in
// flight at its gate.
func (c *Register) Long(m balance.Machine, of balance.Class) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for l := range c.each(m, of) {
		if l.lasts() {
			n++
		}
	}
	return n
}

// Idle returns how many connections of these classes have carried no data for that long, as seen by
// this and earlier calls. It is called about once a second.
func (c *Register) Idle(m balance.Machine, of balance.Class, quiet time.Duration) (n int) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for l := range c.each(m, of) {
		if l.idle(now, quiet) && l.lasts() {
			n++
		}
	}
	return n
}

// Notify tells those of a machine's connections of these classes to end that have not been told
// yet. It does not block.
func (c *Register) Notify(m balance.Machine, of balance.Class, within time.Duration) {
	c.notify(m, of, within, func(*long) bool { return true })
}

// NotifyIdle is Notify for connections that have carried no data for that long.
func (c *Register) NotifyIdle(m balance.Machine, of balance.Class, quiet, within time.Duration) {
	now := time.Now()
	c.notify(m, of, within, func(l *long) bool { return l.idle(now, quiet) })
}

func (c *Register) notify(
	m balance.Machine, of balance.Class, within time.Duration, which func(*long) bool,
) {
	var list []*long
	c.mu.Lock()
	for l := range c.each(m, of) {
		if !l.notified && l.lasts() && which(l) {
			l.notified = true
			list = append(list, l)
		}
	}
	c.mu.Unlock()
	for _, l := range list {
		l.notify(within / 2)
	}
}

// RequestsEnded reports whether the machine has received, or is about to receive, the end of the
// clients' messages in these calls.
func (c *Register) RequestsEnded(m balance.Machine, of balance.Class) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for l := range c.each(m, of) {
		if o, ok := l.endable.(*answer); ok && o.request != nil && !o.request.over.Load() {
			return false
		}
	}
	return true
}

// each iterates over a machine's connections; c.mu is held.
func (c *Register) each(m balance.Machine, of balance.Class) func(func(*long) bool) {
	ls := c.machines[m.Key()]
	return func(yield func(*long) bool) {
		if ls == nil {
			return
		}
		for i, set := range ls {
			if of&(1<<i) == 0 {
				continue
			}
			for l := range set {
				if !yield(l) {
					return
				}
			}
		}
	}
}

func (c *Register) add(l *long) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ls := c.machines[l.machine]
	if ls == nil {
		if c.machines == nil {
			c.machines = map[balance.MachineKey]*longs{}
		}
		ls = new(longs)
		c.machines[l.machine] = ls
	}
	set := &ls[bits.TrailingZeros8(uint8(l.class))]
	if *set == nil {
		*set = map[*long]struct{}{}
	}
	(*set)[l] = struct{}{}
}

func (c *Register) remove(l *long) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ls := c.machines[l.machine]
	delete(ls[bits.TrailingZeros8(uint8(l.class))], l)
	for _, set := range ls {
		if len(set) > 0 {
			return
		}
	}
	delete(c.machines, l.machine)
}

// Watch registers the exchange that resp answers, and wraps resp.Body. It returns nil if the
// exchange is a plain request. age is when a gRPC call begins to count as a long connection. The
// caller calls Leave before it leaves the machine's gate.
func (c *Register) Watch(
	age time.Duration, machine balance.MachineKey, req *http.Request, resp *http.Response,
	x *pool.Exchange, body *GRPCBody,
) Watched {
	if resp.StatusCode != http.StatusSwitchingProtocols &&
		(resp.ContentLength != -1 || resp.Body == http.NoBody) {
		return nil
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return c.watchUpgrade(machine, resp, x)
	}
	class, kind := balance.ClassEvents, hop.FramingNone
	switch t := hop.MediaType(resp.Header); {
	case t == "text/event-stream",
		t == "application/x-ndjson", t == "application/jsonl",
		t == "application/json-seq":
		if resp.Header["Content-Encoding"] == nil {
			kind = hop.FramingLines
		}
	case t == "multipart/x-mixed-replace":
	case req.ProtoMajor == 2 && hop.IsGRPC(t):
		class, kind = balance.ClassStream, hop.FramingGRPC
	default:
		return nil
	}
	return c.watchAnswer(age, machine, class, kind, resp, x, body)
}

// Watched is an exchange that Watch has registered.
type Watched interface{ Leave() }
