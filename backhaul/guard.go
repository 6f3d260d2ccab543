package backhaul

import (
	"errors"
	"io"
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

// guard makes the kernel find out that the other end of an idle connection is gone: after 3 unanswered probes, one a second,
// from 2 s of silence on. Where data is under way there are no such probes: see guards. What is not TCP, or hides it, stays as
// it is.
func guard(c net.Conn) {
	if t := tcpinfo.TCP(c); t != nil {
		t.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 3})
		tcpinfo.BoundRetries(t, maxRTO)
	}
}

// breakOff has a connection end in a reset, now: its peer must not take what it got for all. Where no reset can be had it is
// closed.
func breakOff(c any) {
	for {
		switch t := c.(type) {
		case interface{ NetConn() net.Conn }:
			c = t.NetConn()
		case interface {
			SetLinger(sec int) error
			io.Closer
		}:
			t.SetLinger(0) //nolint:errcheck // it ends either way
			t.Close()
			return
		case io.Closer:
			t.Close()
			return
		default:
			return
		}
	}
}

// endOf returns the error that a connection ended with, where reading it returned none. A reset is told once: where a write
// has had it, a read sees a clean end. ended says that this side had ended its half: then a connection that is closed has
// ended well, or its error is the reader's.
func endOf(c any, ended bool) error {
	for !ended {
		switch t := c.(type) {
		case transparent:
			c = t.Transparent()
		case syscall.Conn: // not what hides one: TLS has an end of its own
			var info tcpinfo.Reader
			if raw, err := t.SyscallConn(); err == nil {
				if i, ok := info.Info(raw); ok && i.Closed {
					return errReset
				}
			}
			return nil
		default:
			return nil
		}
	}
	return nil
}

// transparent is a connection of ours that changes nothing of what passes: its ends are those of the
// one beneath.
type transparent interface{ Transparent() net.Conn }

var errReset = errors.New("backhaul: the connection was reset by its peer")

// guards gives connections up whose peer is silent although data is under way to it, or waits for its window. It looks at
// those that were written to, about once a second while there are any, and at no others: no request has a timer of its own.
// The zero value is ready.
type guards struct {
	bound time.Duration // of silence; 0 means silence
	every time.Duration // between looks; 0 means a fifth of bound

	mu    sync.Mutex
	list  []*guarded // those with listed set
	spare []*guarded
	timer *time.Timer // nil while nothing is listed
	last  time.Time
	info  tcpinfo.Reader // of the one that looks
}

// guarded is a connection that is looked at. Its zero value is of one that cannot be.
type guarded struct {
	in      *guards
	tcp     *net.TCPConn
	raw     syscall.RawConn
	listed  atomic.Bool
	writing atomic.Int32
	given   atomic.Bool // up

	liveness hop.Liveness // of the one that looks
}

// watch has the guards look after a connection, and reports whether the kernel can be asked about it.
func (g *guarded) watch(in *guards, c net.Conn) bool {
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
	g.in, g.tcp, g.raw = in, t, raw
	return true
}

// begin notes that something goes out, or the end of it; end that the kernel has it.
func (g *guarded) begin() {
	if g.in == nil {
		return
	}
	g.writing.Add(1)
	if !g.listed.Load() && g.listed.CompareAndSwap(false, true) {
		g.in.add(g)
	}
}

func (g *guarded) end() {
	if g.in != nil {
		g.writing.Add(-1)
	}
}

// err returns the error of a connection, which where it was given up says so.
func (g *guarded) err(err error) error {
	if err != nil && g.given.Load() {
		return errSilent
	}
	return err
}

const errSilent = timeoutError("backhaul: the peer is gone: it has answered nothing that was sent to it for some seconds")

func (g *guards) add(c *guarded) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.list = append(g.list, c)
	if g.timer == nil {
		g.last = time.Now()
		g.timer = time.AfterFunc(g.pause(), g.look)
	}
}

func (g *guards) limit() time.Duration {
	if g.bound > 0 {
		return g.bound
	}
	return hop.Silence
}

func (g *guards) pause() time.Duration {
	if g.every > 0 {
		return g.every
	}
	return g.limit() / 5
}

// look looks at the connections that were written to since the last time, and at those that still wait. One look is over
// before the next begins.
func (g *guards) look() {
	g.mu.Lock()
	list := g.list
	g.list, g.spare = g.spare[:0], nil
	now := time.Now()
	since := now.Sub(g.last)
	g.last = now
	g.mu.Unlock()
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
			breakOff(c.tcp)
			continue
		}
		if (writing || t.Outstanding()) && c.listed.CompareAndSwap(false, true) {
			list[kept] = c
			kept++
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.list = append(g.list, list[:kept]...)
	clear(list)
	g.spare = list[:0]
	if len(g.list) == 0 {
		g.timer, g.spare = nil, nil
		return
	}
	g.timer.Reset(g.pause())
}
