package pool

import (
	"cmp"
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/tcp"
	"github.com/ebbkit/ebb/balance"
)

// Lingering holds the slot of a request whose client has left, until the machine is done with it as
// far as can be known. It runs on its own goroutine.
type Lingering struct {
	Used
	Gate  *balance.Gate
	Epoch uint64
	App   balance.App
	Sent  bool // the machine has received the whole request
	Began time.Time
	Times *AppTimes
	Free  func() // releases the slot
	Hook  func(freed hop.Freed, held time.Duration)

	left  time.Time
	freed atomic.Bool
	gone  chan struct{} // closed when the slot is free
}

const (
	// MaxDropped is how much of an answer is read and discarded: more than small answers contain, and
	// far less than a download. A connection that sends more is reset, which stops the sender.
	MaxDropped = 1 << 20
	// MaxLingering bounds the connections that wait for machines without a hard limit, where nothing
	// else bounds them.
	MaxLingering = 1000
)

// Start holds the slot. u is what Release has left.
func (l *Lingering) Start(u Used) {
	l.Used, l.left, l.gone = u, time.Now(), make(chan struct{})
	go func() {
		defer l.Gate.AfterRun(l.Epoch, func() { l.end(hop.FreedEnded) })()
		stop := context.AfterFunc(l.Pool.background, func() { l.end(hop.FreedShutdown) })
		defer stop()
		l.end(l.wait())
	}()
}

// end frees the slot.
func (l *Lingering) end(how hop.Freed) {
	if !l.freed.CompareAndSwap(false, true) {
		return
	}
	close(l.gone)
	if l.wire != nil {
		l.wire.Conn.Close()
	} else {
		l.over()
	}
	l.Free()
	if l.Hook != nil {
		l.Hook(how, time.Since(l.left))
	}
}

// tells reports whether the machine is told that nobody waits for its answer. A machine that has
// not received the whole request always is: it would wait for the rest.
func (l *Lingering) tells() bool { return !l.App.FinishAbandoned || !l.Sent }

// wait returns when the slot may be free.
func (l *Lingering) wait() hop.Freed {
	switch {
	case l.wire != nil:
		return l.follow()
	case l.tells():
		return l.hold(
			l.Times.P99(l.App.ID),
		) // the stream has been reset, so nothing more is heard of it
	}
	late := time.NewTimer(l.patience())
	defer late.Stop()
	select {
	case <-l.full.ended:
		if l.full.whole {
			l.answered()
			return hop.FreedAnswered
		}
		return hop.FreedClosed
	case <-late.C:
		return hop.FreedSilent
	case <-l.gone:
		return hop.FreedEnded
	}
}

// patience bounds the wait for a machine that sends nothing. If the machine was not told, the bound
// only covers exchanges that never end.
func (l *Lingering) patience() time.Duration {
	if l.tells() {
		return cmp.Or(l.App.AbandonedHold, hop.MaxHold)
	}
	return cmp.Or(hop.BoundsOf(&l.App).Answer, 1<<62)
}

// hold waits until d after the client has left, or for as long as the app's row says.
func (l *Lingering) hold(d time.Duration) hop.Freed {
	t := time.NewTimer(time.Until(l.left.Add(cmp.Or(l.App.AbandonedHold, d))))
	defer t.Stop()
	select {
	case <-t.C:
	case <-l.gone:
	}
	return hop.FreedClosed
}

// answered learns from a request that was answered after all: otherwise only requests that are
// faster than their clients would count.
func (l *Lingering) answered() { l.Times.Observe(l.App.ID, time.Since(l.Began)) }

// follow waits for the end of an answer over HTTP/1.1.
func (l *Lingering) follow() hop.Freed {
	w := l.wire
	w.reclaim()
	if l.Gate.Load().Limits.Hard == 0 {
		defer l.Pool.Lingering.Add(-1)
		if l.Pool.Lingering.Add(1) > MaxLingering {
			return l.reset()
		}
	}
	if l.tells() && w.CloseWrite() != nil {
		return l.reset() // it cannot be told in any other way
	}
	w.Conn.SetReadDeadline(l.left.Add(l.patience())) //nolint:errcheck // the read fails then
	small := make([]byte, tcp.SmallSize)
	buf, large := small, (*[tcp.BufferSize]byte)(nil)
	defer func() {
		if large != nil {
			tcp.PutBuffer(large)
		}
	}()
	for dropped := 0; ; {
		if w.follow.answered.Load() {
			l.answered()
			return hop.FreedAnswered
		}
		n, err := w.more(buf)
		dropped += n
		switch {
		case w.follow.answered.Load():
		case tcp.IsTimeout(err):
			tcp.Reset(w.Conn)
			return hop.FreedSilent
		case err != nil && !l.tells():
			return hop.FreedClosed // by itself, as it might have done with a client
		case err != nil, l.tells() && dropped > MaxDropped:
			return l.reset()
		case n == len(buf) && large == nil:
			large = tcp.GetBuffer()
			buf = large[:]
		}
	}
}

// reset resets the connection, and holds the slot for as long as the app's requests take: the
// machine may still work on this one.
func (l *Lingering) reset() hop.Freed {
	tcp.Reset(l.wire.Conn)
	return l.hold(l.Times.P99(l.App.ID))
}

// AppTimes holds the service times of apps. It forgets apps that are not used, including those that
// have been removed.
type AppTimes struct {
	of sync.Map // balance.AppID -> *service
	n  atomic.Int64

	sweeping sync.Mutex
	most     int64 // above it, apps that have not been used since the last sweep are forgotten
}

// servicesMin is small enough to keep always.
const servicesMin = 64

type service struct {
	used  atomic.Bool // since the last sweep
	mu    sync.Mutex
	times hop.ServiceTimes
}

// Observe takes in how long an app worked on a request. It drops the sample if another goroutine is
// recording one for the same app.
func (s *AppTimes) Observe(app balance.AppID, d time.Duration) {
	v, ok := s.of.Load(app)
	if !ok {
		var there bool
		if v, there = s.of.LoadOrStore(app, new(service)); !there && s.n.Add(1) > servicesMin {
			defer s.sweep()
		}
	}
	t := v.(*service)
	if !t.used.Load() {
		t.used.Store(true)
	}
	if t.mu.TryLock() {
		t.times.Observe(d)
		t.mu.Unlock()
	}
}

// sweep forgets apps that have not been used since the last sweep. The next one is due when there
// are half as many more.
func (s *AppTimes) sweep() {
	s.sweeping.Lock()
	defer s.sweeping.Unlock()
	if s.n.Load() <= max(servicesMin, s.most) {
		return
	}
	s.of.Range(func(app, v any) bool {
		if !v.(*service).used.Swap(false) {
			s.of.Delete(app)
			s.n.Add(-1)
		}
		return true
	})
	s.most = s.n.Load() * 3 / 2
}

func (s *AppTimes) P99(app balance.AppID) time.Duration {
	v, ok := s.of.Load(app)
	if !ok {
		return hop.UnknownHold
	}
	t := v.(*service)
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.times.P99()
}
