package backhaul

import "time"

// HTTP/2 windows. net/http fixes them when a connection begins, so a connection has a class. The window of one stream
// bounds what a stalled stream holds in memory and how fast one stream is: a window per round trip. The window of the
// connection is 1 GiB always: a smaller one would let streams that nobody reads stop the others.
const (
	minClass   = 0 // 256 KiB
	maxClass   = 6 // 16 MiB
	classes    = maxClass + 1
	anyClass   = 4 // 4 MiB, what net/http has, where the path is unknown
	connWindow = 1 << 30
	// nearWindow is for machines. They are near: at 1 ms it lets 128 MB/s through. What a client does not read is held here
	// as well as at the edge: with 256 KiB there, 200 stalled downloads stay below 100 MB.
	nearWindow = 128 << 10
	// defaultBandwidth is 500 Mb/s: what one TCP connection between clouds reaches.
	defaultBandwidth = 60 << 20
)

// windowOf returns the stream window of a class in bytes.
func windowOf(class int) int { return 256 << 10 << min(max(class, minClass), maxClass) }

// classOf returns the smallest class whose window holds n bytes.
func classOf(n int64) int {
	c := minClass
	for c < maxClass && int64(windowOf(c)) < n {
		c++
	}
	return c
}

// chooseClass returns the class of new connections over a path: bandwidth, in bytes per second, times the round trip,
// rounded up to a class. pressure is the part of the memory limit in use; from 80 % on the class is one lower, from 90 % two:
// streams get slower before the process dies.
//
// had is the class of the connections there are, or negative. It is left for a lower one only where the path needs less
// than half of it, so that a round trip on the border of two classes does not make connections come and go.
func chooseClass(rtt time.Duration, known bool, bandwidth int64, pressure float64, had int) int {
	class := anyClass
	if known {
		need := int64(max(0, rtt).Seconds() * float64(bandwidth))
		class = classOf(need)
		if had >= 0 && class == had-1 && need > int64(windowOf(class))*3/4 {
			class = had
		}
	}
	switch {
	case pressure >= 0.9:
		class -= 2
	case pressure >= 0.8:
		class--
	}
	return min(max(class, minClass), maxClass)
}

// dialLimit is how long connecting may take: three round trips and what a busy peer needs, so that one lost packet is
// forgiven and a black hole is not waited for. most bounds it, and is what holds where the path is unknown; 0 means none.
func dialLimit(rtt time.Duration, known bool, most time.Duration) time.Duration {
	if !known {
		return most
	}
	d := min(max(3*rtt+200*time.Millisecond, 300*time.Millisecond), 3*time.Second)
	if most > 0 {
		d = min(d, most)
	}
	return d
}

// bulkSize is from where on a body is bulk: 1 MiB keeps a 100 Mb/s path busy for 80 ms, which the small requests of the
// same connection would notice.
const bulkSize = 1 << 20

// bulkMemory is how long a route that moved bulk is expected to do so again.
const bulkMemory = time.Minute

// lane is one of the two groups of HTTP/2 connections to a peer: on one connection a packet lost for a download holds up
// everything else.
type lane uint8

const (
	interactive lane = iota
	bulk
)

// laneOf chooses for a request: by the length of its body, negative where unknown, and by when a request of the same
// route was last seen to move bulk.
func laneOf(length int64, lastBulk, now time.Time) lane {
	if length >= bulkSize || !lastBulk.IsZero() && now.Sub(lastBulk) < bulkMemory {
		return bulk
	}
	return interactive
}
