package rtt

import (
	"context"
	"net"
	"net/http"
	"net/http/httptrace"
	"time"
)

// fallbackTimeout bounds a TCP or HTTP probe.
const fallbackTimeout = 2 * time.Second

// fallbacks are the ways that do not need UDP.
type fallbacks struct {
	dialer net.Dialer
	client *http.Client
	slots  chan struct{} // bounds how many are under way
}

func (f *fallbacks) init() {
	f.slots = make(chan struct{}, 16)
	f.client = &http.Client{
		Transport:     &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 1, IdleConnTimeout: 90 * time.Second},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (f *fallbacks) close() { f.client.CloseIdleConnections() }

// fallback sends one probe that is not UDP and takes in its result.
func (m *Mesh) fallback(ctx context.Context, o outgoing) {
	var s Sample
	ok := false
	select {
	case m.ways.slots <- struct{}{}:
		ctx, cancel := context.WithTimeout(ctx, fallbackTimeout)
		if o.way == SourceTCP {
			s, ok = m.ways.connect(ctx, *o.node)
		} else {
			s, ok = m.ways.head(ctx, *o.node)
		}
		cancel()
		<-m.ways.slots
	default: // too many are waiting for theirs; this peer's turn comes again
	}
	now := time.Now()
	m.mu.Lock()
	o.p.busy = false
	if m.byID[o.node.ID] != o.p || ctx.Err() != nil {
		m.mu.Unlock()
		return
	}
	if ok {
		m.accept(o.p, now, s, true)
		m.count.answered.Add(1)
	} else {
		m.miss(o.p, now, o.way)
		m.lose(o.p)
	}
	m.mu.Unlock()
	if ok && m.cfg.Trace.Sample != nil {
		m.cfg.Trace.Sample(o.node.ID, s)
	}
}

// connect times a TCP handshake. The kernel answers it at the far end, so a busy peer does not show; where this kernel
// tells its own measurement, neither does a busy self.
func (f *fallbacks) connect(ctx context.Context, n Node) (Sample, bool) {
	start := time.Now()
	c, err := f.dialer.DialContext(ctx, "tcp", n.TCP.String())
	took := time.Since(start)
	if err != nil {
		return Sample{}, false
	}
	defer c.Close()
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0) // leave no connection behind in TIME_WAIT
	}
	if d, ok := MinRTT(c); ok && d < took {
		return Sample{RTT: d, Source: SourceTCP, Kernel: true}, true
	}
	return Sample{RTT: took, Source: SourceTCP}, true
}

// head times a request from its last byte out to its first byte back, on a connection that is reused.
func (f *fallbacks) head(ctx context.Context, n Node) (Sample, bool) {
	var wrote, first time.Time
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteRequest:         func(httptrace.WroteRequestInfo) { wrote = time.Now() },
		GotFirstResponseByte: func() { first = time.Now() },
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, n.HTTP, nil)
	if err != nil {
		return Sample{}, false
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return Sample{}, false
	}
	resp.Body.Close()
	if wrote.IsZero() || !first.After(wrote) {
		return Sample{}, false
	}
	return Sample{RTT: first.Sub(wrote), Source: SourceHTTP}, true
}
