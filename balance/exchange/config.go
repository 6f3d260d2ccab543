package exchange

import (
	"cmp"
	"fmt"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// Config configures a [Link]. The zero value of every field is valid.
type Config struct {
	// Cluster separates fleets that share an engine; "" means "ebb". Messages of another cluster
	// are dropped, so that a new name begins with empty views.
	Cluster string
	// Edge says that this node sends requests to machines of other nodes: then the others wait for
	// its acknowledgements and count its demand. Worker says that it hosts machines.
	Edge, Worker bool
	// Hop is the host:port where other nodes reach this one's hop, Probe where it answers probes. They
	// are handed on as they are, see [Link.Node].
	Hop, Probe string
	// Demand returns what this node has of an app's requests, and the region in which they count. It
	// is called for every app at each interval, and must not block. nil means none.
	Demand func(balance.AppID) (home string, inFlight, parked int)
	// Report receives each load report that arrives, after the fleet has; nil means nobody. It must
	// not block.
	Report func(balance.Report)
	// Expire is after which silence a node is taken for gone, and its machines with it; 0 means 5 s.
	// At least a second: a node is heard once a second.
	Expire time.Duration
	// Interval is how often loads and demand are told when they change; 0 means 200 ms. What has not
	// changed is told once a second.
	Interval time.Duration
	Trace    Trace
}

// Trace is told what happens. Each func may be nil; they are called with no lock held, on the
// goroutine of [Link.Run], and must not block.
type Trace struct {
	// Node: a node was heard for the first time or again, in a new incarnation, or has gone.
	Node func(Node)
	// Refused: a message or a row of a node was refused. machine is empty for a whole message.
	Refused func(node balance.NodeID, machine balance.MachineKey, err error)
}

const (
	// wholeEvery is how often everything is told, changed or not.
	wholeEvery = time.Second
	// askTimeout bounds a request for a snapshot: a round trip between continents takes a third.
	askTimeout = time.Second
	// payloadSlack is what a message has beside its rows.
	payloadSlack = 2048
	// rowsPerMessage bounds a message of rows in bytes, where the engine would take more: one that is
	// lost costs as much again.
	rowsPerMessage = 256 << 10
)

func (c Config) resolve() (Config, error) {
	c.Cluster = cmp.Or(c.Cluster, "ebb")
	c.Expire = cmp.Or(c.Expire, 5*time.Second)
	c.Interval = cmp.Or(c.Interval, 200*time.Millisecond)
	switch {
	case len(c.Cluster) > 255:
		return c, fmt.Errorf("exchange: Config.Cluster has %d bytes: want at most 255", len(c.Cluster))
	case c.Expire < time.Second:
		return c, fmt.Errorf(
			"exchange: Config.Expire %v: want 0 (5s) or at least 1s: a node is heard once a second", c.Expire,
		)
	case c.Interval < time.Millisecond || c.Interval > wholeEvery:
		return c, fmt.Errorf("exchange: Config.Interval %v: want 0 (200ms) or 1ms to 1s", c.Interval)
	}
	return c, nil
}
