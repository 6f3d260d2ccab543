package rtt

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/ebbkit/ebb/rtt/internal/probe"
)

// Node is one member of the mesh.
type Node struct {
	ID     string // unique in the mesh, 1 to 255 bytes
	Region string // any name; nodes of equal Region are next to each other

	Addr netip.AddrPort // where its Mesh answers UDP probes; may be a relay in front of it
	TCP  netip.AddrPort // fallback: a port that accepts TCP connections; optional
	HTTP string         // fallback: a URL that answers HEAD requests; optional
}

// Config configures a [Mesh]. Only ID and Key have no default.
type Config struct {
	ID     string // of this node, unique in the mesh, 1 to 255 bytes
	Region string // of this node
	// Key is the secret that all nodes of the mesh share, at least 16 bytes; see [Mesh.SetKeys].
	Key []byte
	// Peers returns the nodes to probe; nil means none: the node only answers. It is called once a
	// second, and on [Mesh.Refresh], from one goroutine and with no lock held. The list may contain
	// this node itself, which is left out. A node that is missing from a list is forgotten, and one
	// whose address changed is probed anew. If there are more than 512 nodes, only some nodes of
	// every region are probed.
	Peers func() []Node

	// Conn is the socket. Nil means a UDP socket on Listen, whose zero value is ":0". A
	// *net.UDPConn gets kernel receive timestamps (on Linux); any other is timed in user space.
	// Mesh closes it.
	Conn   net.PacketConn
	Listen string

	// Interval is the time between probes of a near peer: one of the 32 nearest or the nearest of
	// its region. 0 means 1 s. Others are probed every 5 s, or every Interval where that is longer. A
	// new peer gets three probes within 300 ms.
	Interval time.Duration

	// Trace observes.
	Trace Trace
}

// Trace is a set of functions that are called, with no lock held, as things happen. Each may be
// nil. They are called from the goroutines of the Mesh and hold it up while they run.
type Trace struct {
	Sample func(peer string, rtt time.Duration) // a probe was answered
	Lost   func(peer string)                    // a peer became lost
	Back   func(peer string)                    // a lost peer answered again
	Table  func(t *Table)                       // a new table is in place
}

// limits bound what a mesh sends.
type limits struct {
	peers  int           // how many are probed
	far    time.Duration // between probes of a peer that is not near
	budget int           // probes per second; if it does not suffice, all intervals grow
}

// usual holds the limits of every mesh. 512 peers cost about 2 % of a core, and 250 probes a
// second, with the answers to as many, 60 kB/s each way.
var usual = limits{peers: 512, far: 5 * time.Second, budget: 250}

const minKey = 16 // bytes

// resolve returns c with defaults filled in, or what is wrong with it.
func (c Config) resolve() (Config, error) {
	const maxName = probe.MaxName
	if c.ID == "" || len(c.ID) > maxName {
		return c, fmt.Errorf("rtt: Config.ID is %.40q: give every node an ID of 1 to %d bytes", c.ID,
			maxName)
	}
	if len(c.Region) > maxName {
		return c, fmt.Errorf("rtt: Config.Region has %d bytes: use at most %d", len(c.Region), maxName)
	}
	if len(c.Key) < minKey {
		return c, fmt.Errorf("rtt: Config.Key has %d bytes: use at least %d, from a random source",
			len(c.Key), minKey)
	}
	if c.Conn != nil && c.Listen != "" {
		return c, fmt.Errorf("rtt: Config.Conn is set and Config.Listen is %q: give one of them",
			c.Listen)
	}
	if c.Interval == 0 {
		c.Interval = time.Second
	}
	if c.Interval < 10*time.Millisecond {
		return c, fmt.Errorf("rtt: Config.Interval is %v: use 10ms or more, or 0 for 1s", c.Interval)
	}
	if c.Peers == nil {
		c.Peers = func() []Node { return nil }
	}
	c.ID, c.Region = strings.Clone(c.ID), strings.Clone(c.Region)
	return c, nil
}

// keysOf returns the keys of packets, starting with the one that is used to send, or what is wrong
// with them.
func keysOf(key []byte, accept [][]byte) ([][]byte, error) {
	if len(accept) > 3 {
		return nil, fmt.Errorf("rtt: SetKeys got %d further keys: at most 3, each is tried", len(accept))
	}
	keys := [][]byte{slices.Clone(key)}
	for _, k := range accept {
		keys = append(keys, slices.Clone(k))
	}
	for i, k := range keys {
		if len(k) < minKey {
			return nil, fmt.Errorf("rtt: key %d of %d has %d bytes: use at least %d",
				i+1, len(keys), len(k), minKey)
		}
	}
	return keys, nil
}
