package pool

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/auth"
	"github.com/ebbkit/ebb/backhaul/internal/hop"
)

// mux keeps the HTTP/2 connections to one peer on one lane. A request gets a stream on a connection
// that has a free one, or waits for a new connection. It never waits for a stream on a connection
// that may not get one, as [http.Transport] does, which then hangs. A new connection is used once
// the peer's SETTINGS have arrived: they show that somebody is there, and how many streams it
// accepts.
type mux struct {
	pool *Pool
	key  PeerKey

	Mu      sync.Mutex
	epoch   uint64
	class   int // of new connections
	checked time.Time
	Conns   []*Conn
	dials   dials
	waiting int
	perConn int // how many streams the last connection accepted
	timer   *time.Timer
	gone    bool
	ended   []*Conn // to be closed when m.Mu is released

	change signal // raised when a stream is free, or a connection has come or failed
}

// dials are the attempts to connect to a peer.
type dials struct {
	now    int   // under way
	failed int   // ever
	err    error // of the last one that failed
}

// signal wakes everybody who waits for it. It has its own lock, because net/http reports free
// streams whatever locks we hold.
type signal struct {
	mu sync.Mutex
	c  chan struct{}
}

func (s *signal) next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c == nil {
		s.c = make(chan struct{})
	}
	return s.c
}

func (s *signal) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c != nil {
		close(s.c)
		s.c = nil
	}
}

const (
	// maxConns bounds the connections of a mux: with the usual 250 streams each, far more than a
	// process can serve.
	maxConns = 256
	// usualStreams is how many streams a peer is expected to accept until it has said so.
	usualStreams = 100
	// reclass is how often the window class of a path is checked.
	reclass = time.Second
)

var (
	errNoStream = errors.New("backhaul: no HTTP/2 stream got free in time")
	errOlder    = errors.New("backhaul: the machine has been started again since")
	errGone     = errors.New("backhaul: these connections have left the pool: look again")
)

// unlock releases m.Mu, and then closes the connections that have ended. They belong to the
// caller's dialer, so no lock is held.
func (m *mux) unlock() {
	ended := m.ended
	m.ended = nil
	m.Mu.Unlock()
	for _, c := range ended {
		c.Close()
	}
}

// get returns a connection with a stream reserved on it. reused says that others have used the
// connection before.
func (m *mux) get(ctx context.Context, x *Exchange) (c *Conn, reused bool, err error) {
	limit := m.pool.Limit(x)
	var late <-chan time.Time
	m.Mu.Lock()
	defer m.unlock()
	if had, due := m.stale(); due {
		m.unlock()
		class := m.pool.class(x, had) // reads how much memory is in use
		m.Mu.Lock()
		m.classify(x, class)
	}
	if m.gone {
		return nil, false, errGone
	}
	m.renew(x.Epoch)
	failed := m.dials.failed
	for {
		if m.pool.Near && x.Epoch < m.epoch {
			return nil, false, errOlder
		}
		if c := m.reserve(); c != nil {
			reused := c.used
			c.used = true
			if c.Streams == c.most && m.scarce() {
				m.start(ctx, x, m.class)
			}
			return c, reused, nil
		}
		if m.dials.failed != failed && m.dials.now == 0 {
			return nil, false, m.dials.err
		}
		if m.dials.failed == failed && m.dials.now*cmp.Or(m.perConn, usualStreams) <= m.waiting &&
			len(m.Conns)+m.dials.now < maxConns {
			m.start(ctx, x, m.class)
		}
		m.waiting++
		change := m.change.next()
		m.unlock()
		if late == nil && limit > 0 {
			t := time.NewTimer(2 * limit) // the dial under way, and one more
			defer t.Stop()
			late = t.C
		}
		select {
		case <-change:
		case <-late:
			err = errNoStream
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		m.Mu.Lock()
		m.waiting--
		if err != nil {
			return nil, false, err
		}
	}
}

// own returns a new connection with a stream reserved on it. It takes no other streams until that
// one is given back.
func (m *mux) own(ctx context.Context, x *Exchange) (*Conn, error) {
	m.Mu.Lock()
	if m.gone {
		m.unlock()
		return nil, errGone
	}
	m.renew(x.Epoch)
	class, epoch := m.class, m.epoch
	m.unlock()
	if m.pool.Near && x.Epoch < epoch {
		return nil, errOlder
	}
	c, err := m.dial(ctx, x.Dial, m.pool.Limit(x), class)
	if err != nil {
		return nil, err
	}
	if err := c.HTTP.Reserve(); err != nil {
		c.Close()
		return nil, err
	}
	c.mux, c.Class, c.epoch, c.Streams, c.used, c.alone = m, class, epoch, 1, true, true
	return c, nil
}

// reserve takes a stream on the first connection that has a free one; m.Mu is held. Earlier
// connections fill up first, so that the others expire.
func (m *mux) reserve() *Conn {
	for i := 0; i < len(m.Conns); i++ {
		c := m.Conns[i]
		if c.HTTP.Err() != nil {
			m.Conns = slices.Delete(m.Conns, i, i+1)
			i--
			continue
		}
		if c.Streams < c.most && c.HTTP.Reserve() == nil {
			c.Streams++
			return c
		}
	}
	return nil
}

// stale reports whether it is time to check the class again, and returns the present one; m.Mu is
// held.
func (m *mux) stale() (had int, due bool) {
	return m.had(), m.checked.IsZero() || time.Since(m.checked) >= reclass
}

// had returns the class of the connections, or -1 if there are none.
func (m *mux) had() int {
	if len(m.Conns) == 0 {
		return -1
	}
	return m.class
}

// classify adopts a chosen class; m.Mu is held. If the class has changed, a connection of the new
// class is made and replaces the old ones, which end with their streams.
func (m *mux) classify(x *Exchange, class int) {
	had := m.had()
	m.checked, m.class = time.Now(), class
	if had >= 0 && class != had && m.dials.now == 0 && !m.gone {
		m.start(context.Background(), x, class)
	}
}

// start dials on its own goroutine, so that a request that gives up does not take a connection from
// others; m.Mu is held.
func (m *mux) start(ctx context.Context, x *Exchange, class int) {
	m.dials.now++
	limit, dial, epoch := m.pool.Limit(x), x.Dial, m.epoch
	ctx = context.WithoutCancel(ctx)
	go func() {
		c, err := m.dial(ctx, dial, limit, class)
		m.Mu.Lock()
		defer m.unlock()
		defer m.change.wake()
		m.dials.now--
		if err != nil {
			m.dials.failed++
			m.dials.err = err
			return
		}
		if epoch != m.epoch || m.pool.closed.Load() && m.waiting == 0 {
			m.ended = append(m.ended, c)
			return
		}
		m.perConn = c.most
		c.mux, c.Class, c.epoch, c.idleAt = m, class, epoch, time.Now()
		old := m.Conns
		m.Conns = []*Conn{c}
		for _, o := range old {
			if o.Class == class {
				m.Conns = append(m.Conns, o)
			} else {
				o.retired = true
				o.endIfUnused()
			}
		}
		m.arm()
		c.HTTP.SetStateHook(func(*http.ClientConn) { m.change.wake() })
	}()
}

func (m *mux) dial(
	ctx context.Context, dial Dialer, limit time.Duration, class int,
) (*Conn, error) {
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	h := &hello{done: make(chan struct{})}
	w, err := m.pool.Connect(ctx, dial, m.key.Name.ID, h)
	if err != nil {
		return nil, err
	}
	ping := !m.pool.Near && w.guarded.In == nil
	over := context.WithValue(ctx, dialingKey{}, &dialing{wire: w})
	cc, err := m.pool.transport2(class, ping).NewClientConn(over, "http", "peer:80")
	if err != nil {
		w.Close()
		return nil, err
	}
	select {
	case <-h.done:
	case <-ctx.Done():
		cc.Close()
		return nil, context.Cause(ctx)
	}
	if !h.settings.OK {
		cc.Close()
		switch err := auth.RefusedBy(w.Conn); {
		case err != nil:
			return nil, err
		case h.forbidden:
			return nil, &auth.DeniedError{
				Peer:  m.key.Name.ID,
				Words: "it wants to know who this is: set Config.Keys as its HandlerConfig.Keys, or show a certificate",
			}
		}
		return nil, errors.New(
			"backhaul: the peer does not speak HTTP/2 without TLS: serve the hop with NewServer",
		)
	}
	c := &Conn{HTTP: cc, Wire: w, most: MaxStreams}
	if n := h.settings.Streams; n > 0 {
		c.most = int(min(n, MaxStreams))
	}
	return c, nil
}

// MaxStreams bounds the streams of one connection, however many the peer would accept.
const MaxStreams = 1000

// hello waits for the first frame of a peer.
type hello struct {
	settings hop.Settings
	done     chan struct{}
	over     bool

	forbidden bool // it answered 403, in HTTP/1.1
}

func (h *hello) feed(p []byte, err error) {
	if h.over {
		return
	}
	h.forbidden = h.forbidden || bytes.HasPrefix(p, []byte("HTTP/1.1 403 "))
	h.settings.Feed(p)
	if h.settings.Done || err != nil {
		h.over = true
		close(h.done)
	}
}

// put gives a stream back.
func (m *mux) put(c *Conn) {
	m.Mu.Lock()
	c.Streams--
	c.idleAt = time.Now()
	if m.pool.closed.Load() || m.pool.MaxIdle <= 0 || c.epoch != m.epoch {
		c.retired = true
	}
	if c.alone {
		m.share(c)
	}
	c.endIfUnused()
	m.arm()
	m.unlock()
	m.change.wake()
}

// share opens a connection that belonged to one request to others that may need it; m.Mu is held.
func (m *mux) share(c *Conn) {
	c.alone = false
	room := slices.ContainsFunc(m.Conns, func(o *Conn) bool { return o.Streams < o.most })
	if room || m.gone || c.Class != m.class || c.HTTP.Err() != nil {
		c.retired = true
	}
	if c.retired {
		return
	}
	m.Conns = append(m.Conns, c)
	c.HTTP.SetStateHook(func(*http.ClientConn) { m.change.wake() })
}

// endIfUnused closes a connection that takes no more streams once its last one has ended. The lock
// of its mux is held, and the connection is closed when that is released.
func (c *Conn) endIfUnused() {
	if c.retired && c.Streams == 0 {
		c.mux.ended = append(c.mux.ended, c)
	}
}

// renew lets the connections of an older epoch end with their streams; m.Mu is held.
func (m *mux) renew(epoch uint64) {
	if epoch <= m.epoch {
		return
	}
	m.epoch = epoch
	m.drop(func(*Conn) bool { return true })
}

// retire opens no further streams on a connection because the peer has refused one.
func (m *mux) retire(c *Conn) {
	m.pool.refused.Store(true)
	m.Mu.Lock()
	defer m.unlock()
	c.retired = true
	m.drop(func(o *Conn) bool { return o == c })
}

// drop takes connections out of use; m.Mu is held.
func (m *mux) drop(which func(*Conn) bool) {
	m.Conns = slices.DeleteFunc(m.Conns, func(c *Conn) bool {
		if !which(c) {
			return false
		}
		c.retired = true
		c.endIfUnused()
		return true
	})
}

// arm sets the timer that closes idle connections; m.Mu is held.
func (m *mux) arm() {
	if m.timer == nil && m.pool.IdleTimeout > 0 {
		m.timer = time.AfterFunc(m.pool.IdleTimeout, m.expire)
	}
}

// expire closes connections that have been idle too long, and removes a mux without connections
// from the pool.
func (m *mux) expire() {
	m.Mu.Lock()
	defer m.unlock()
	now := time.Now()
	wait := m.pool.IdleTimeout
	m.drop(func(c *Conn) bool {
		if c.Streams > 0 {
			return false
		}
		left := m.pool.IdleTimeout - now.Sub(c.idleAt)
		if left > 0 && c.HTTP.Err() == nil {
			wait = min(wait, left)
			return false
		}
		return true
	})
	m.timer = nil
	if len(m.Conns) > 0 || m.dials.now > 0 || m.waiting > 0 {
		m.timer = time.AfterFunc(wait, m.expire)
		return
	}
	m.gone = true
	m.pool.Muxes.CompareAndDelete(m.key, m)
}

// closeIdle closes connections without streams.
func (m *mux) closeIdle() {
	m.Mu.Lock()
	defer m.unlock()
	m.drop(func(c *Conn) bool { return c.Streams == 0 })
}

func (m *mux) stop() {
	m.Mu.Lock()
	defer m.Mu.Unlock()
	if m.timer != nil {
		m.timer.Stop()
		m.timer = nil
	}
}

// scarce reports whether all streams are in use and no further connection is under way; m.Mu is
// held.
func (m *mux) scarce() bool {
	if m.pool.Spare <= 0 || m.pool.closed.Load() || m.dials.now > 0 || len(m.Conns) >= maxConns {
		return false
	}
	for _, c := range m.Conns {
		if c.Streams < c.most {
			return false
		}
	}
	return true
}
