package rtt

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"time"
)

// counters count what a Mesh did.
type counters struct {
	sent, answered, asked, replied, sendErrors atomic.Uint64
	dropped                                    [drops]atomic.Uint64
}

// Counters is what a Mesh has done so far, in packets.
type Counters struct {
	Sent       uint64 // probes sent, fallbacks included
	Answered   uint64 // of them answered and believed
	Asked      uint64 // probes of others received and believed
	Replied    uint64 // of them answered
	SendErrors uint64 // writes the socket refused

	// Dropped in silence:
	Malformed uint64 // wrong size, version or type
	Forged    uint64 // wrong key or MAC
	Replayed  uint64 // probes seen before
	Limited   uint64 // probes beyond the rate of one sender
	Unasked   uint64 // replies nobody waits for, duplicates, and those from another address
	Stranger  uint64 // replies by nodes that are not peers
}

// Counters returns what was counted so far.
func (m *Mesh) Counters() Counters {
	c, d := &m.count, &m.count.dropped
	return Counters{
		Sent: c.sent.Load(), Answered: c.answered.Load(), Asked: c.asked.Load(), Replied: c.replied.Load(),
		SendErrors: c.sendErrors.Load(),
		Malformed:  d[dropSize].Load() + d[dropVersion].Load() + d[dropType].Load(),
		Forged:     d[dropKey].Load() + d[dropForged].Load(),
		Replayed:   d[dropReplayed].Load(), Limited: d[dropLimited].Load(),
		Unasked: d[dropUnasked].Load(), Stranger: d[dropStranger].Load(),
	}
}

const (
	// answersPerSender and second is far above what any peer asks for: three in 300 ms, then one per second. A mesh that
	// is configured to ask more often answers more often.
	answersPerSender = 20
	sendersKept      = 4096
	readErrors       = 100 // in a row and close together, then the socket is taken for broken
)

// serve reads datagrams until the socket is closed: it answers probes and takes in replies. It returns nil when it
// ended because ctx did.
func (m *Mesh) serve(ctx context.Context) error {
	var (
		buf   [packetSize + 40]byte // larger than a packet, so that an oversized one shows
		out   [packetSize]byte
		p     packet
		keys  *[][]byte
		codec *codec
		guard clockGuard
		rate  = max(answersPerSender, 3/m.cfg.Interval.Seconds())
		refl  = newReflector(m.session, rate, int(2*rate), sendersKept)
		fails int
		at    time.Time // of the last failure
	)
	for {
		n, from, stamp, err := m.sock.read(buf[:])
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			// Some systems report here that a packet sent earlier found nobody. That is no reason to stop.
			now := time.Now()
			if now.Sub(at) > 100*time.Millisecond {
				fails = 0
			}
			at = now
			if fails++; fails == readErrors || errors.Is(err, net.ErrClosed) {
				return err
			}
			continue
		}
		fails = 0
		now := time.Now()
		if k := m.keys.Load(); k != keys {
			keys, codec = k, newCodec(*k)
		}
		steady := guard.read(wall(now), mono(now))
		a := arrival{from: from, now: now, stamped: stamp != 0 && steady, queued: wall(now) - time.Duration(stamp)}
		why := codec.open(buf[:n], &p)
		switch {
		case why != dropNone:
		case p.kind == typeReply:
			if why = m.reply(&a, &p); why == dropNone {
				m.count.answered.Add(1)
			}
		default:
			if p.prober == m.session {
				why = dropReplayed // our own probe, come back
				break
			}
			if why = refl.answer(now, &p); why != dropNone {
				break
			}
			m.count.asked.Add(1)
			m.answer(&a, &p, codec, &out)
		}
		if why != dropNone {
			m.count.dropped[why].Add(1)
		}
	}
}

// answer stamps and sends a reply. Between the two stamps lies everything this process had to wait for: the queue in
// the socket, measured by the wall clock since the kernel's stamp, and the time since, by the monotonic clock.
func (m *Mesh) answer(a *arrival, p *packet, c *codec, out *[packetSize]byte) {
	held := time.Duration(0)
	if a.stamped && a.queued >= 0 && a.queued < maxRTT {
		held = a.queued
		p.flags |= flagKernel
	}
	// The receive stamp has no meaning of its own; only the difference counts. A constant in its place would do, but
	// real ones help whoever reads a capture.
	p.received = uint64(wall(a.now) - held)
	p.sent = p.received + uint64(held+time.Since(a.now))
	c.seal(out, p)
	if err := m.sock.write(out[:], a.from); err != nil {
		m.count.sendErrors.Add(1)
		return
	}
	m.count.replied.Add(1)
}
