package rtt

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/ebbkit/ebb/rtt/internal/estimate"
	"github.com/ebbkit/ebb/rtt/internal/probe"
)

const (
	// answersPerSender, per second, is far above what any peer asks for: three in 300 ms, then one
	// per second. A mesh that is configured to ask more often answers more often.
	answersPerSender = 20
	sendersKept      = 4096
	// readErrors in a row and close together mean that the socket is broken.
	readErrors = 100
)

// responder reads datagrams: it answers probes and passes on replies. Its goroutine owns it.
type responder struct {
	m         *Mesh
	keys      *[][]byte
	codec     *probe.Codec
	reflector *probe.Reflector
	guard     estimate.ClockGuard
	in        [probe.PacketSize + 40]byte // larger than a packet, so that an oversized one shows
	out       [probe.PacketSize]byte
	fails     int
	failed    time.Time // when a read failed last
}

func newResponder(m *Mesh) *responder {
	rate := max(answersPerSender, 3/m.cfg.Interval.Seconds())
	return &responder{
		m: m, reflector: probe.NewReflector(m.session, rate, int(2*rate), sendersKept),
	}
}

// serve reads until the socket is closed. It returns nil when it ended because ctx did.
func (r *responder) serve(ctx context.Context) error {
	for {
		n, from, stamp, err := r.m.sock.read(r.in[:])
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if r.broken(err) {
				return err
			}
			continue
		}
		r.fails = 0
		a := r.arrival(from, stamp)
		if why := r.take(n, &a); why != probe.DropNone {
			r.m.count.dropped[why].Add(1)
		}
	}
}

// broken reports whether an error of the socket is final. Some systems report here that a packet
// sent earlier was not delivered, which is no reason to stop.
func (r *responder) broken(err error) bool {
	now := time.Now()
	if now.Sub(r.failed) > 100*time.Millisecond {
		r.fails = 0
	}
	r.failed = now
	r.fails++
	return r.fails == readErrors || errors.Is(err, net.ErrClosed)
}

// arrival describes a datagram that has just been read. stamp is the kernel's, 0 without one.
func (r *responder) arrival(from netip.AddrPort, stamp int64) probe.Arrival {
	now := time.Now()
	wall := time.Duration(now.UnixNano())
	steady := r.guard.Read(wall, now.Sub(r.m.born))
	return probe.Arrival{
		From: from, Now: now, Stamped: stamp != 0 && steady, Queued: wall - time.Duration(stamp),
	}
}

// take handles the n bytes that arrived, or says why it drops them.
func (r *responder) take(n int, a *probe.Arrival) probe.Drop {
	if k := r.m.keys.Load(); k != r.keys {
		r.keys, r.codec = k, probe.NewCodec(*k)
	}
	var p probe.Packet
	if why := r.codec.Open(r.in[:n], &p); why != probe.DropNone {
		return why
	}
	if p.IsReply() {
		return r.reply(a, &p)
	}
	if why := r.reflector.Answer(a.Now, &p); why != probe.DropNone {
		return why
	}
	r.m.count.asked.Add(1)
	p.Stamp(a, time.Now())
	r.codec.Seal(&r.out, &p)
	if err := r.m.sock.write(r.out[:], a.From); err != nil {
		r.m.count.sendErrors.Add(1)
		return probe.DropNone
	}
	r.m.count.replied.Add(1)
	return probe.DropNone
}

// reply passes an authenticated reply on.
func (r *responder) reply(a *probe.Arrival, p *probe.Packet) probe.Drop {
	m := r.m
	m.mu.Lock()
	answer, why := m.prober.Reply(a, p)
	m.look()
	m.mu.Unlock()
	if why != probe.DropNone {
		return why
	}
	m.count.answered.Add(1)
	if answer.Believed {
		m.sampled(answer.Peer, answer.Sample)
	}
	return probe.DropNone
}
