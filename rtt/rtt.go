// Package rtt measures round trips and losses between the nodes of a mesh and answers how far a region is.
//
// Every node runs one [Mesh]: it probes its peers over UDP and answers theirs. Round trips are taken from kernel
// receive stamps at both ends, with the time the far end held the packet subtracted, so a busy host does not look far
// away. Where UDP is blocked a TCP connect is timed instead, and where that fails an HTTP request. Nothing is inferred:
// a node that was never measured is unknown, and unknown is not near.
//
// The result is a [Table], an immutable snapshot with the base round trip of every peer (the minimum of a minute of
// samples, see [Estimator]), its losses by direction, and the regions in an order that does not flap (see [Order]).
// [Mesh.RTT] is the distance a router asks for.
//
// Packets are authenticated with a key all nodes share, 88 bytes in both directions, answered at most once, and a
// packet that is not believed is dropped in silence.
//
// Estimator, Order, Table and everything else that decides is free of goroutines, clocks and I/O; Mesh is the shell.
package rtt

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"
)

// Node is one member of the mesh.
type Node struct {
	ID     string // unique in the mesh, 1 to 255 bytes
	Region string // any name; nodes of equal Region are next to each other

	Addr netip.AddrPort // where its Mesh answers UDP probes; may be a relay in front of it
	TCP  netip.AddrPort // fallback: a port that accepts TCP connections; optional
	HTTP string         // fallback: a URL that answers HEAD requests; optional
}

// Peers says which nodes there are. Mesh asks once a second, and on [Mesh.Refresh], from one goroutine. The list may
// contain the asking node itself, which is left out. A node that is missing from a list is forgotten, one whose address
// changed is asked anew. Beyond Config.MaxPeers a part of every region is probed.
type Peers interface{ Peers() []Node }

// PeerList is a fixed list of nodes.
type PeerList []Node

// Peers returns the list.
func (l PeerList) Peers() []Node { return l }

// Config is what a [Mesh] is made of. Only Self.ID and Key have no default.
type Config struct {
	// Self is this node. Of its addresses none is used.
	Self Node
	// Incarnation tells this life of the node from its earlier ones and must be higher. 0 means the time of New.
	Incarnation uint64

	// Key is the secret all nodes of the mesh share, at least 16 bytes. Accept holds further ones whose packets are
	// believed too: to change the key without a gap, accept the new one everywhere, then use it and accept the old
	// one, then drop that.
	Key    []byte
	Accept [][]byte

	// Peers are the nodes to probe. Nil means none: the node only answers.
	Peers Peers
	// MaxPeers is how many of them are probed at most. 0 means 512, which costs about 2 % of a core.
	MaxPeers int

	// Conn is the socket. Nil means a UDP socket on Listen, whose zero value is ":0". A *net.UDPConn gets kernel
	// receive stamps (on Linux); any other is timed in user space. Mesh closes it.
	Conn   net.PacketConn
	Listen string

	// Interval is the time between probes of a near peer: one of the 32 nearest or the nearest of its region.
	// FarInterval is that of the others. 0 means 1 s and 5 s. A new peer gets three probes within 300 ms.
	Interval    time.Duration
	FarInterval time.Duration
	// Budget is how many probes are sent per second at most; when it does not suffice all intervals grow in
	// proportion. 0 means 250, which with the answers to as many is 60 kB/s each way.
	Budget int

	// Trace observes. Nil means nobody does.
	Trace *Trace
	// Logger gets lost and returned peers. Nil means silence.
	Logger *slog.Logger
}

// Trace is a set of functions that are called, with no lock held, as things happen. Each may be nil. They are called
// from the goroutines of the Mesh and hold it up while they run.
type Trace struct {
	Sample func(peer string, s Sample) // a probe was answered
	Lost   func(peer string)           // a peer became lost
	Back   func(peer string)           // a lost peer answered again
	Table  func(t *Table)              // a new table is in place
}

const (
	defaultMaxPeers = 512
	defaultBudget   = 250
	nearPeers       = 32
	minKey          = 16
	maxName         = 255 // bytes of a node ID or a region
)

// resolve returns c with defaults filled in, or what is wrong with it.
func (c Config) resolve() (Config, error) {
	if c.Self.ID == "" || len(c.Self.ID) > maxName {
		return c, fmt.Errorf("rtt: Config.Self.ID is %.40q: give every node an ID of 1 to %d bytes", c.Self.ID, maxName)
	}
	if len(c.Self.Region) > maxName {
		return c, fmt.Errorf("rtt: Config.Self.Region has %d bytes: use at most %d", len(c.Self.Region), maxName)
	}
	if err := checkKeys(c.Key, c.Accept); err != nil {
		return c, err
	}
	if c.Conn != nil && c.Listen != "" {
		return c, fmt.Errorf("rtt: Config.Conn is set and Config.Listen is %q: give one of them", c.Listen)
	}
	for _, f := range []struct {
		name string
		v    int64
	}{
		{"Interval", int64(c.Interval)}, {"FarInterval", int64(c.FarInterval)},
		{"MaxPeers", int64(c.MaxPeers)}, {"Budget", int64(c.Budget)},
	} {
		if f.v < 0 {
			return c, fmt.Errorf("rtt: Config.%s is %d: use a positive value, or 0 for the default", f.name, f.v)
		}
	}
	if c.Interval == 0 {
		c.Interval = time.Second
	}
	if c.FarInterval == 0 {
		c.FarInterval = max(5*time.Second, c.Interval)
	}
	if c.Interval < 10*time.Millisecond || c.FarInterval < c.Interval {
		return c, fmt.Errorf("rtt: Config.Interval is %v and FarInterval %v: use 10ms or more, and far not below near", c.Interval, c.FarInterval)
	}
	if c.MaxPeers == 0 {
		c.MaxPeers = defaultMaxPeers
	}
	if c.Budget == 0 {
		c.Budget = defaultBudget
	}
	if c.Peers == nil {
		c.Peers = PeerList(nil)
	}
	if c.Trace == nil {
		c.Trace = &Trace{}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Self.ID, c.Self.Region = strings.Clone(c.Self.ID), strings.Clone(c.Self.Region)
	return c, nil
}

func checkKeys(key []byte, accept [][]byte) error {
	if len(key) < minKey {
		return fmt.Errorf("rtt: Config.Key has %d bytes: use at least %d, from a random source", len(key), minKey)
	}
	for i, k := range accept {
		if len(k) < minKey {
			return fmt.Errorf("rtt: Config.Accept[%d] has %d bytes: use at least %d", i, len(k), minKey)
		}
	}
	if len(accept) > 3 {
		return fmt.Errorf("rtt: Config.Accept has %d keys: at most 3, each is tried", len(accept))
	}
	return nil
}
