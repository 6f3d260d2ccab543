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
	// are dropped, so a node with a new cluster name starts with empty views.
	Cluster string
	// Edge says that this node sends requests to machines of other nodes: the others then wait for
	// its acknowledgements and count its demand. Worker says that it hosts machines.
	Edge, Worker bool
	// Hop is the host:port where other nodes reach this one's hop, Probe the host:port where it
	// answers probes. They are passed on unchanged, see [Link.Node].
	Hop, Probe string
	// Demand returns how many of an app's requests this node has, and the region in which they
	// count. It is called for every app at each interval and must not block. nil means none.
	Demand func(balance.AppID) (home string, inFlight, parked int)
	// Report is called with each load report that arrives, after the fleet has applied it; nil
	// means no call. It must not block.
	Report func(balance.Report)
	// Expire is how long a node may be silent before it counts as gone, and its machines with it; 0
	// means 5 s. It must be at least a second, since a node sends one heartbeat a second.
	Expire time.Duration
	// Interval is how often loads and demand are sent when they change; 0 means 200 ms. Unchanged
	// values are sent once a second.
	Interval time.Duration
	Trace    Trace
}

// Trace observes a link. Each func may be nil. They are called with no lock held, on the goroutine
// of [Link.Run], and must not block.
type Trace struct {
	// Node: a node was heard for the first time or again, began a new incarnation, or is gone.
	Node func(Node)
	// Refused: a message or a row of a node was refused. machine is empty for a whole message.
	Refused func(node balance.NodeID, machine balance.MachineKey, err error)
}

const (
	// wholeEvery is how often everything is sent, changed or not.
	wholeEvery = time.Second
	// askTimeout bounds a request for a snapshot: a round trip between continents takes a third.
	askTimeout = time.Second
	// payloadSlack is the room for what a message has beside its rows, in bytes.
	payloadSlack = 2048
	// rowsPerMessage bounds a message of rows in bytes, even if the engine would take more: a lost
	// message costs as much again.
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
