package tcp

import (
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/internal/tcpinfo"
)

// maxRTO bounds the kernel's intervals between retransmissions, and between probes of a closed
// window.
const maxRTO = 2 * time.Second

// KeepAlive makes the kernel detect that the peer of an idle connection is gone: after 3 unanswered
// probes, one a second, from 2 s of silence on. While data is in flight the kernel sends none: see
// [Guards]. It leaves connections alone that are not TCP or do not expose it.
func KeepAlive(c net.Conn) {
	if t := tcpinfo.TCP(c); t != nil {
		t.SetKeepAliveConfig(
			net.KeepAliveConfig{Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 3},
		)
		tcpinfo.BoundRetries(t, maxRTO)
	}
}

// Guards closes connections whose peer is silent although data is in flight to it, or waits for its
// window. It looks only at those that were written to, about once a second while there are any, so
// that no request has its own timer. The zero value is ready.
type Guards struct {
	Bound time.Duration // of silence; 0 means silence
	Every time.Duration // between looks; 0 means a fifth of Bound

	Mu    sync.Mutex
	List  []*Guarded // those with listed set
	spare []*Guarded
	Timer *time.Timer // nil while nothing is listed
	Last  time.Time
	info  tcpinfo.Reader // of the one that looks
}

// Guarded is a connection that Guards looks at. The zero value is one that it cannot.
type Guarded struct {
	In      *Guards
	tcp     *net.TCPConn
	raw     syscall.RawConn
	listed  atomic.Bool
	writing atomic.Int32
	given   atomic.Bool // up

	liveness hop.Liveness // of the one that looks
}

// Watch makes the guards look after a connection. It reports whether the kernel can report on it.
func (g *Guarded) Watch(in *Guards, c net.Conn) bool {
	t := tcpinfo.TCP(c)
	if t == nil {
		return false
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return false
	}
	var info tcpinfo.Reader
	if _, ok := info.Info(raw); !ok {
		return false
	}
	g.In, g.tcp, g.raw = in, t, raw
	return true
}

// Begin records that a write, or the end, is being sent; End that the kernel has it.
func (g *Guarded) Begin() {
	if g.In == nil {
		return
	}
	g.writing.Add(1)
	if !g.listed.Load() && g.listed.CompareAndSwap(false, true) {
		g.In.add(g)
	}
}

func (g *Guarded) End() {
	if g.In != nil {
		g.writing.Add(-1)
	}
}

// Err returns a connection's error, or says that it was given up.
func (g *Guarded) Err(err error) error {
	if err != nil && g.given.Load() {
		return ErrSilent
	}
	return err
}

const ErrSilent = TimeoutError(
	"backhaul: the peer is gone: it has answered nothing that was sent to it for some seconds",
)

func (g *Guards) add(c *Guarded) {
	g.Mu.Lock()
	defer g.Mu.Unlock()
	g.List = append(g.List, c)
	if g.Timer == nil {
		g.Last = time.Now()
		g.Timer = time.AfterFunc(g.pause(), g.Look)
	}
}

func (g *Guards) limit() time.Duration {
	if g.Bound > 0 {
		return g.Bound
	}
	return hop.Silence
}

func (g *Guards) pause() time.Duration {
	if g.Every > 0 {
		return g.Every
	}
	return g.limit() / 5
}

// Look looks at the connections written to since the last look, and at those that still wait for an
// answer. Looks do not overlap.
func (g *Guards) Look() {
	g.Mu.Lock()
	list := g.List
	g.List, g.spare = g.spare[:0], nil
	now := time.Now()
	since := now.Sub(g.Last)
	g.Last = now
	g.Mu.Unlock()
	kept := 0
	for _, c := range list {
		c.listed.Store(false) // a write from now on lists it for the next look
		writing := c.writing.Load() > 0
		t, ok := tcpStateOf(&g.info, c.raw)
		if !ok {
			continue // closed
		}
		c.liveness = c.liveness.Look(t, since)
		if c.liveness.Dead(t, g.limit()) {
			c.given.Store(true)
			Reset(c.tcp)
			continue
		}
		if (writing || t.Outstanding()) && c.listed.CompareAndSwap(false, true) {
			list[kept] = c
			kept++
		}
	}
	g.Mu.Lock()
	defer g.Mu.Unlock()
	g.List = append(g.List, list[:kept]...)
	clear(list)
	g.spare = list[:0]
	if len(g.List) == 0 {
		g.Timer, g.spare = nil, nil
		return
	}
	g.Timer.Reset(g.pause())
}
