package hop

import (
	"time"
)

// HTTP/2 windows. net/http fixes them when a connection begins, so a connection has a class. The
// window of one stream bounds what a stalled stream holds in memory and how fast one stream is: a
// window per round trip. The window of the connection is 1 GiB always: a smaller one would let
// streams that nobody reads stop the others.
const (
	MinClass   = 0 // 256 KiB
	maxClass   = 6 // 16 MiB
	Classes    = maxClass + 1
	AnyClass   = 4 // 4 MiB, what net/http has, where the path is unknown
	ConnWindow = 1 << 30
	// NearWindow is for machines. They are near: at 1 ms it allows 128 MB/s. Bytes that a client does
	// not read are held here as well as at the edge: with 256 KiB there, 200 stalled downloads stay
	// below 100 MB.
	NearWindow = 128 << 10
	// DefaultBandwidth is 500 Mb/s, which one TCP connection between clouds reaches.
	DefaultBandwidth = 60 << 20
)

// WindowOf returns the stream window of a class in bytes.
func WindowOf(class int) int { return 256 << 10 << min(max(class, MinClass), maxClass) }

// ClassOf returns the smallest class whose window holds n bytes.
func ClassOf(n int64) int {
	c := MinClass
	for c < maxClass && int64(WindowOf(c)) < n {
		c++
	}
	return c
}

// ChooseClass returns the class of new connections over a path: bandwidth, in bytes per second,
// times the round trip, rounded up to a class. pressure is the part of the memory limit in use:
// from 80 % the class is one lower, from 90 % two, so that streams slow down before the process
// dies.
//
// had is the class of the present connections, or negative. It changes to a lower one only if the
// path needs less than half of it, so that a round trip at the border of two classes does not make
// connections come and go.
func ChooseClass(rtt time.Duration, known bool, bandwidth int64, pressure float64, had int) int {
	class := AnyClass
	if known {
		need := int64(max(0, rtt).Seconds() * float64(bandwidth))
		class = ClassOf(need)
		if had >= 0 && class == had-1 && need > int64(WindowOf(class))*3/4 {
			class = had
		}
	}
	switch {
	case pressure >= 0.9:
		class -= 2
	case pressure >= 0.8:
		class--
	}
	return min(max(class, MinClass), maxClass)
}

// DialLimit bounds connecting: three round trips and an allowance for a busy peer, so that it
// survives one lost packet and does not wait for a black hole. most caps it, and is the bound if
// the path is unknown; 0 means none.
func DialLimit(rtt time.Duration, known bool, most time.Duration) time.Duration {
	if !known {
		return most
	}
	d := min(max(3*rtt+200*time.Millisecond, 300*time.Millisecond), 3*time.Second)
	if most > 0 {
		d = min(d, most)
	}
	return d
}

// BulkSize is the size from which a body is bulk: 1 MiB keeps a 100 Mb/s path busy for 80 ms, which
// small requests on the same connection would notice.
const BulkSize = 1 << 20

// bulkMemory is how long a route that moved bulk is expected to do so again.
const bulkMemory = time.Minute

// Lane is one of the two groups of HTTP/2 connections to a peer: on one connection a packet lost
// for a download delays everything else.
type Lane uint8

const (
	LaneInteractive Lane = iota
	LaneBulk
)

// LaneOf chooses a request's lane by the length of its body, negative if unknown, and by when the
// same route last moved bulk data.
func LaneOf(length int64, lastBulk, now time.Time) Lane {
	if length >= BulkSize || !lastBulk.IsZero() && now.Sub(lastBulk) < bulkMemory {
		return LaneBulk
	}
	return LaneInteractive
}
