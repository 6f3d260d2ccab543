// Package probe decides how the peers of a mesh are probed, and what is answered to their probes:
// the wire format, the schedule, the fallbacks where UDP is blocked, replay windows, and the order
// of regions. It is pure: times and random bits are arguments, and nothing in it waits.
package probe

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"hash"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/ebbkit/ebb/rtt/internal/estimate"
)

// PacketSize is the number of bytes of a packet, little endian, probe and reply alike: the
// responder can never be made to send more than it got.
//
//	 0  4  magic and version
//	 4  1  type: 1 probe, 2 reply
//	 5  1  flags
//	 6  2  key id
//	 8  8  session of the prober
//	16  8  sequence
//	24  8  nonce, echoed: an answer cannot be made before the probe was seen
//	32  8  responder: receive stamp, ns
//	40  8  responder: send stamp, ns
//	48  8  responder: probes received in this session
//	56  8  session of the responder
//	64  8  hint of the responder
//	72 16  HMAC-SHA256 of the above, truncated
//
// The MAC key is derived from the cluster's secret and the type, so that a probe cannot come back
// as a reply. The responder's stamps are only ever used as a difference.
const PacketSize = 88

const (
	macAt = 72
	magic = 0x01746272 // "rbt", version 1

	typeProbe byte = 1
	typeReply byte = 2

	flagKernel byte = 1 << 0 // the receive stamp is the kernel's
)

// Packet is the content of a packet.
type Packet struct {
	kind     byte
	flags    byte
	prober   uint64
	seq      uint64
	nonce    uint64
	received uint64
	sent     uint64
	count    uint64
	answerer uint64
	hint     uint64
}

// NewProbe returns a probe of this node. seq rises with every probe to a peer.
func NewProbe(session, seq, nonce uint64) Packet {
	return Packet{kind: typeProbe, prober: session, seq: seq, nonce: nonce}
}

// IsReply reports whether p answers a probe.
func (p *Packet) IsReply() bool { return p.kind == typeReply }

// Stamp writes into a reply how long the probe was held, from its arrival until now. The two
// timestamps cover everything that this process waited for: the queue in the socket, measured by
// the wall clock since the kernel's timestamp, and the time since the read, by the monotonic clock.
func (p *Packet) Stamp(a *Arrival, now time.Time) {
	held := time.Duration(0)
	if a.Stamped && a.Queued >= 0 && a.Queued < estimate.MaxRTT {
		held = a.Queued
		p.flags |= flagKernel
	}
	// Only the difference of the timestamps counts. A constant would do for the first, but a real
	// one helps when a capture is read.
	p.received = uint64(wall(a.Now) - held)
	p.sent = p.received + uint64(held+now.Sub(a.Now))
}

// Session identifies one life of one node: the upper half is a hash of its ID, the lower its
// incarnation.
func Session(id string, incarnation uint64) uint64 {
	return uint64(idHash(id))<<32 | uint64(uint32(incarnation^incarnation>>32))
}

// idHash is how a reply names its sender. If two peers collide (in 1 of 10^4 meshes of 1000 nodes),
// the replies of one are never accepted.
func idHash(id string) uint32 { return uint32(xxhash.Sum64String(id) >> 32) }

// Drop says why a packet was dropped.
type Drop uint8

const (
	DropNone     Drop = iota
	DropSize          // not 88 bytes
	DropVersion       // other magic or version
	DropType          // neither probe nor reply
	DropKey           // sealed with a key that is not ours
	DropForged        // the MAC does not fit
	DropReplayed      // a probe seen before
	DropLimited       // too many from one sender
	DropUnasked       // an unexpected reply, or a second one, or one from another address
	DropStranger      // a reply by a node that is not a peer
	Drops
)

// Codec seals and opens packets. It reuses its hashes: 0 allocations, and not safe for concurrent
// use.
type Codec struct {
	keys []macKey // the first seals
	sum  [sha256.Size]byte
}

type macKey struct {
	id   uint16
	hash [3]hash.Hash // by type; 0 is nil
}

func NewCodec(secrets [][]byte) *Codec {
	c := &Codec{}
	for _, s := range secrets {
		k := macKey{id: binary.LittleEndian.Uint16(derive(s, "ebb rtt 1 key id"))}
		k.hash[typeProbe] = hmac.New(sha256.New, derive(s, "ebb rtt 1 probe"))
		k.hash[typeReply] = hmac.New(sha256.New, derive(s, "ebb rtt 1 reply"))
		c.keys = append(c.keys, k)
	}
	return c
}

func derive(secret []byte, label string) []byte {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte(label))
	return h.Sum(nil)
}

// mac computes the MAC of b[:macAt] into c.sum.
func (c *Codec) mac(h hash.Hash, b *[PacketSize]byte) []byte {
	h.Reset()
	h.Write(b[:macAt])
	return h.Sum(c.sum[:0])[:PacketSize-macAt]
}

// Seal writes p into b. p.kind must be one of the two types.
func (c *Codec) Seal(b *[PacketSize]byte, p *Packet) {
	k := &c.keys[0]
	le := binary.LittleEndian
	le.PutUint32(b[0:], magic)
	b[4], b[5] = p.kind, p.flags
	le.PutUint16(b[6:], k.id)
	le.PutUint64(b[8:], p.prober)
	le.PutUint64(b[16:], p.seq)
	le.PutUint64(b[24:], p.nonce)
	le.PutUint64(b[32:], p.received)
	le.PutUint64(b[40:], p.sent)
	le.PutUint64(b[48:], p.count)
	le.PutUint64(b[56:], p.answerer)
	le.PutUint64(b[64:], p.hint)
	copy(b[macAt:], c.mac(k.hash[p.kind], b))
}

// Open reads raw into p. Cheap tests come first; p is written only when the MAC fits.
func (c *Codec) Open(raw []byte, p *Packet) Drop {
	if len(raw) != PacketSize {
		return DropSize
	}
	b := (*[PacketSize]byte)(raw)
	le := binary.LittleEndian
	if le.Uint32(b[0:]) != magic {
		return DropVersion
	}
	kind := b[4]
	if kind != typeProbe && kind != typeReply {
		return DropType
	}
	id, found := le.Uint16(b[6:]), false
	for i := range c.keys {
		k := &c.keys[i]
		if k.id != id {
			continue
		}
		found = true
		if subtle.ConstantTimeCompare(b[macAt:], c.mac(k.hash[kind], b)) == 1 {
			*p = Packet{
				kind: kind, flags: b[5],
				prober: le.Uint64(b[8:]), seq: le.Uint64(b[16:]), nonce: le.Uint64(b[24:]),
				received: le.Uint64(b[32:]), sent: le.Uint64(b[40:]), count: le.Uint64(b[48:]),
				answerer: le.Uint64(b[56:]), hint: le.Uint64(b[64:]),
			}
			return DropNone
		}
	}
	if !found {
		return DropKey
	}
	return DropForged
}
