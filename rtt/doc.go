// Package rtt measures round trips and losses between the nodes of a mesh and answers how far a
// region is.
//
// Every node runs one [Mesh]: it probes its peers over UDP and answers theirs. Round trips are
// taken from kernel receive stamps at both ends, with the time the far end held the packet
// subtracted, so a busy host does not look far away. Where UDP is blocked a TCP connect is timed
// instead, and where that fails an HTTP request. Nothing is inferred: a node that was never
// measured is unknown, and unknown is not near.
//
// The result is a [Table], an immutable snapshot with the base round trip of every peer, its
// losses by direction, and the regions in their order. [Mesh.RTT] is the distance a router asks
// for.
//
// A base is the least of the last 60 samples, which no queue and no busy host can raise. A path
// that became shorter is followed at once, one that became longer by a quarter after ten samples
// in a row, one by a tenth after thirty.
//
// The order changes reluctantly: a region moves up only when it is nearer than one above it by
// max(2 ms, 10 %) for 5 seconds without a break, 3 when that is half again as far. A region that
// is lost changes the order at once, and so does the first measurement. Regions never measured
// come after all measured ones, the lost last. When all of three or more peers fall silent at
// once, the fault is likely here: their last distances stay.
//
// Packets are authenticated with a key all nodes share, 88 bytes in both directions, answered at
// most once, and a packet that is not believed is dropped in silence.
package rtt
