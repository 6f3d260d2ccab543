package rtt

import (
	"context"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"syscall"
	"time"

	"github.com/ebbkit/ebb/internal/tcpinfo"
	"github.com/ebbkit/ebb/rtt/internal/estimate"
	"github.com/ebbkit/ebb/rtt/internal/probe"
)

// sender sends the probes that are due: packets over UDP, and where that is blocked TCP connects
// and HTTP requests, each in a goroutine. The goroutine of Run owns it.
type sender struct {
	m     *Mesh
	keys  *[][]byte
	codec *probe.Codec
	buf   [probe.PacketSize]byte
	batch []probe.Probe

	dialer  net.Dialer
	client  *http.Client
	slots   chan struct{} // bounds how many fallbacks are under way
	running sync.WaitGroup
}

const (
	// fallbackTimeout bounds a TCP or HTTP probe.
	fallbackTimeout = 2 * time.Second
	// maxFallbacks of them are under way at once.
	maxFallbacks = 16
)

func newSender(m *Mesh) *sender {
	return &sender{
		m:     m,
		slots: make(chan struct{}, maxFallbacks),
		client: &http.Client{
			Transport: &http.Transport{
				DisableCompression: true, MaxIdleConnsPerHost: 1, IdleConnTimeout: 90 * time.Second,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error {
				return http.ErrUseLastResponse
			},
		},
	}
}

// close waits for what is under way, which ends with the context of its round.
func (s *sender) close() {
	s.client.CloseIdleConnections()
	s.running.Wait()
}

// round counts overdue and lost probes, sends those that are due, and returns when there is more to
// do; zero means never.
func (s *sender) round(ctx context.Context, now time.Time) time.Time {
	m := s.m
	if keys := m.keys.Load(); keys != s.keys {
		s.keys, s.codec = keys, probe.NewCodec(*keys)
	}
	m.mu.Lock()
	var next time.Time
	s.batch, next = m.prober.Due(now, s.batch[:0])
	m.mu.Unlock()
	for i := range s.batch {
		o := &s.batch[i]
		m.count.sent.Add(1)
		if o.Way == estimate.SourceUDP {
			s.send(o)
			continue
		}
		own := *o
		s.running.Go(func() { s.fallback(ctx, &own) })
	}
	return next
}

// send sends one packet. The time is taken last, after the MAC.
func (s *sender) send(o *probe.Probe) {
	m := s.m
	s.codec.Seal(&s.buf, &o.Packet)
	m.mu.Lock()
	m.prober.Sent(o, time.Now())
	m.mu.Unlock()
	if err := m.sock.write(s.buf[:], o.Node.Addr); err != nil {
		m.count.sendErrors.Add(1) // the probe will be missed like any other
	}
}

// fallback sends one probe that is not UDP and takes in its result.
func (s *sender) fallback(ctx context.Context, o *probe.Probe) {
	var x estimate.Sample
	ok := false
	select {
	case s.slots <- struct{}{}:
		ctx, cancel := context.WithTimeout(ctx, fallbackTimeout)
		if o.Way == estimate.SourceTCP {
			x, ok = s.connect(ctx, o.Node.TCP.String())
		} else {
			x, ok = s.head(ctx, o.Node.HTTP)
		}
		cancel()
		<-s.slots
	default: // too many fallbacks are under way; this peer's turn comes again
	}
	if ctx.Err() != nil {
		return // the mesh ends
	}
	m := s.m
	m.mu.Lock()
	known := m.prober.Done(o, time.Now(), x, ok)
	m.look()
	m.mu.Unlock()
	if ok && known {
		m.count.answered.Add(1)
		m.sampled(o.Node.ID, x)
	}
}

// connect times a TCP handshake. The kernel answers it at the far end, so a busy peer process does
// not affect it. If this kernel reports its own measurement, a busy process here does not either.
func (s *sender) connect(ctx context.Context, addr string) (estimate.Sample, bool) {
	start := time.Now()
	c, err := s.dialer.DialContext(ctx, "tcp", addr)
	took := time.Since(start)
	if err != nil {
		return estimate.Sample{}, false
	}
	defer c.Close()
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0) // leave no connection behind in TIME_WAIT
	}
	if d, ok := MinRTT(c); ok && d < took {
		return estimate.Sample{RTT: d, Source: estimate.SourceTCP, Kernel: true}, true
	}
	return estimate.Sample{RTT: took, Source: estimate.SourceTCP}, true
}

// head times a request from its last byte out to its first byte back, on a connection that is
// reused.
func (s *sender) head(ctx context.Context, url string) (estimate.Sample, bool) {
	var wrote, first time.Time
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteRequest:         func(httptrace.WroteRequestInfo) { wrote = time.Now() },
		GotFirstResponseByte: func() { first = time.Now() },
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, url, nil)
	if err != nil {
		return estimate.Sample{}, false
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return estimate.Sample{}, false
	}
	resp.Body.Close()
	if wrote.IsZero() || !first.After(wrote) {
		return estimate.Sample{}, false
	}
	return estimate.Sample{RTT: first.Sub(wrote), Source: estimate.SourceHTTP}, true
}

// MinRTT returns the kernel's minimum round trip of a TCP connection (TCP_INFO, tcpi_min_rtt: the
// minimum of the last five minutes), for [Mesh.Observe]. It is right even in the middle of a
// download that fills every queue. It returns false if there is none: on a system other than Linux,
// for a connection that is not TCP, or for one that has not acknowledged anything. A *tls.Conn must
// be unwrapped with its NetConn method.
func MinRTT(c net.Conn) (time.Duration, bool) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return 0, false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0, false
	}
	var r tcpinfo.Reader
	return r.MinRTT(raw)
}
