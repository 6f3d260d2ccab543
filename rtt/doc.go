// Package rtt measures round trips and losses between the nodes of a mesh and answers how far a
// region is.
//
// Every node runs one [Mesh]: it probes its peers over UDP and answers their probes. Round trips
// are taken from kernel receive timestamps at both ends, minus the time for which the far end held
// the packet, so a busy host does not look far away. Where UDP is blocked a TCP connect is timed
// instead, and where that fails an HTTP request. Nothing is inferred: a node that was never
// measured is unknown, and unknown is never treated as near.
//
// The result is a [Table], an immutable snapshot with the base round trip of every peer, its
// losses by direction, and the regions in their order. [Mesh.RTT] is the distance a router asks
// for.
//
// A base is the minimum of the last 60 samples, which no queue and no busy host can raise. A path
// that becomes shorter is followed at once, one that becomes longer by a quarter after ten samples
// in a row, and one that becomes longer by a tenth after thirty.
//
// The order has hysteresis: a region moves up only when it is nearer than one above it by max(2 ms,
// 10 %) for 5 seconds without a break, or for 3 seconds if the one above is half again as far. A
// region that is lost changes the order at once, and so does the first measurement. Regions that
// were never measured come after all measured ones, and lost ones last. When all of three or more
// peers fall silent at once, the fault is probably at this node: their last distances stay.
//
// Packets are authenticated with a key that all nodes share. They have 88 bytes in both directions.
// Each probe is answered at most once, and a packet that fails authentication is dropped silently.
package rtt
