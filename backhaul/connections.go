package backhaul

import (
	"cmp"
	"math/bits"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/pool"
	"github.com/ebbkit/ebb/balance"
)

// Connections knows the long connections to the machines of this process, tells them to end, and so implements
// [downscale.Connections]. One is shared by all that a node sends requests to its machines with: set it as
// [HandlerConfig].Connections and, where the node is an edge as well, as [Config].Connections, and pass it to
// [downscale.Config]. The zero value is ready. It is safe for concurrent use, starts nothing, and must not be copied.
//
// These are long, and told to end like this:
//
//   - WebSocket: a connection upgraded to "websocket". Between two frames of the machine's the client gets a close frame,
//     1001 "going away", and after it nothing more. Its answer reaches the machine, which then ends the connection.
//   - TCP: a connection upgraded to anything else. The machine gets the end of what the client says; what it says to that
//     still reaches the client.
//   - Events: an answer without a length of type text/event-stream, JSON lines or multipart/x-mixed-replace. After the
//     present line (of one that is compressed, after what has come) the answer ends as if it were complete, and the machine
//     sees its client leave.
//   - Stream: a gRPC call over HTTP/2 whose answer has brought a message and goes on after StreamAge. The machine gets the end
//     of the client's messages, after the present one, so that it ends the call with its own status. Where that had come
//     before, the client gets the status UNAVAILABLE, which clients try again, after the machine's present message. Other
//     calls on the same connections go on.
//
// What has not ended by half of the time that they are given ends by us: the WebSocket's connections are closed, the client
// of other protocols sees the half-close, the call gets UNAVAILABLE. A message that is half through is not broken off.
//
// All else is a request, however long it takes: from outside nobody can tell whether what came so far would be taken for the
// whole, as with a download whose length is not known, or an upload.
type Connections struct {
	// StreamAge is how long a gRPC call is a request, which ends by itself. 0 means 10 s.
	StreamAge time.Duration

	mu       sync.Mutex // taken twice in the life of a long connection, and when somebody asks
	machines map[balance.MachineKey]*longs
}

// longs are the long connections of one machine, by class.
type longs [classCount]map[*long]struct{}

const classCount = 4

// long is one connection in the register. It leaves it before its gate: nobody counts more than is in flight.
type long struct {
	in      *Connections
	machine balance.MachineKey
	class   balance.Class
	told    bool         // in.mu is held
	data    atomic.Bool  // some has passed since the last look
	asked   *atomic.Bool // the same of the request's messages, where these are followed apart; nil: they are not
	quiet   time.Time    // when a look last found data, or the first look was; in.mu is held
	endable
}

// follow notes whether data has passed: no clock is read for that.
func (l *long) follow(f *hop.Frames) {
	if f.Data {
		f.Data = false
		if !l.data.Load() {
			l.data.Store(true)
		}
	}
}

// idle reports whether no data has passed for that long; in.mu is held. It is as exact as looks are frequent.
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

// endable is a connection as it is told.
type endable interface {
	// tell has the connection end: now, or where it can, and by itself or by force after that time. It does not block.
	tell(force time.Duration)
	// lasts reports whether it is a long connection by now.
	lasts() bool
}

// Long returns how many connections of these classes a machine has: at most as many as are in flight at its gate.
func (c *Connections) Long(m balance.Machine, of balance.Class) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for l := range c.each(m, of) {
		if l.lasts() {
			n++
		}
	}
	return n
}

// Idle returns how many connections of these classes have carried no data for that long, as found by this and earlier calls:
// it is asked about once a second.
func (c *Connections) Idle(m balance.Machine, of balance.Class, quiet time.Duration) (n int) {
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

// Notify tells a machine's connections of these classes to end, those that have not been told. It does not block.
func (c *Connections) Notify(m balance.Machine, of balance.Class, within time.Duration) {
	c.tell(m, of, within, func(*long) bool { return true })
}

// NotifyIdle does the same to those that have carried no data for that long.
func (c *Connections) NotifyIdle(m balance.Machine, of balance.Class, quiet, within time.Duration) {
	now := time.Now()
	c.tell(m, of, within, func(l *long) bool { return l.idle(now, quiet) })
}

func (c *Connections) tell(m balance.Machine, of balance.Class, within time.Duration, which func(*long) bool) {
	var list []*long
	c.mu.Lock()
	for l := range c.each(m, of) {
		if !l.told && l.lasts() && which(l) {
			l.told = true
			list = append(list, l)
		}
	}
	c.mu.Unlock()
	for _, l := range list {
		l.tell(within / 2)
	}
}

// each goes through a machine's connections; c.mu is held.
func (c *Connections) each(m balance.Machine, of balance.Class) func(func(*long) bool) {
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

func (c *Connections) add(l *long) {
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

func (c *Connections) remove(l *long) {
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

func (c *Connections) streamAge() time.Duration { return cmp.Or(c.StreamAge, 10*time.Second) }

// watch registers what resp, the answer to a request, makes of its exchange, and puts itself between: into resp.Body. It
// returns nil where the exchange is a request. The caller has leave called before it leaves the machine's gate.
func (c *Connections) watch(app balance.AppID, id balance.MachineID, req *http.Request, resp *http.Response, x *pool.Exchange, body *spigot) leaver {
	if c == nil || resp.StatusCode != http.StatusSwitchingProtocols && (resp.ContentLength != -1 || resp.Body == http.NoBody) {
		return nil
	}
	machine := balance.MachineKey{App: app, ID: id}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return c.watchUpgrade(machine, resp, x)
	}
	class, kind := balance.ClassEvents, hop.FramingNone
	switch t := hop.MediaType(resp.Header); {
	case t == "text/event-stream", t == "application/x-ndjson", t == "application/jsonl", t == "application/json-seq":
		if resp.Header["Content-Encoding"] == nil {
			kind = hop.FramingLines
		}
	case t == "multipart/x-mixed-replace":
	case req.ProtoMajor == 2 && hop.IsGRPC(t):
		class, kind = balance.ClassStream, hop.FramingGRPC
	default:
		return nil
	}
	return c.watchAnswer(machine, class, kind, resp, x, body)
}

// leaver is what watch has registered.
type leaver interface{ leave() }
