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

// maxRTO is how often the kernel sends again, and probes a closed window, at the least.
const maxRTO = 2 * time.Second

// KeepAlive makes the kernel find out that the other end of an idle connection is gone: after 3
// unanswered probes, one a second, from 2 s of silence on. Where data is under way there are no
// such probes: see guards. What is not TCP, or hides it, stays as it is.
func KeepAlive(c net.Conn) {
	if t := tcpinfo.TCP(c); t != nil {
		t.SetKeepAliveConfig(
			net.KeepAliveConfig{Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 3},
		)
		tcpinfo.BoundRetries(t, maxRTO)
	}
}

// Guards gives connections up whose peer is silent although data is under way to it, or waits for
// its window. It looks at those that were written to, about once a second while there are any, and
// at no others: no request has a timer of its own. The zero value is ready.
type Guards struct {
	Bound time.Duration // of silence; 0 means silence
	Every time.Duration // between looks; 0 means a fifth of bound

	Mu    sync.Mutex
	List  []*Guarded // those with listed set
	spare []*Guarded
	Timer *time.Timer // nil while nothing is listed
	Last  time.Time
	info  tcpinfo.Reader // of the one that looks
}

// Guarded is a connection that is looked at. Its zero value is of one that cannot be.
type Guarded struct {
	In      *Guards
	tcp     *net.TCPConn
	raw     syscall.RawConn
	listed  atomic.Bool
	writing atomic.Int32
	given   atomic.Bool // up

	liveness hop.Liveness // of the one that looks
}

// Watch has the guards look after a connection, and reports whether the kernel can be asked about
// it.
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

// Begin notes that something goes out, or the end of it; end that the kernel has it.
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

// Err returns the error of a connection, which where it was given up says so.
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

// Look looks at the connections that were written to since the last time, and at those that still
// wait. One look is over before the next begins.
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
		c.listed.Store(false) // what is written from now on comes up next time
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
