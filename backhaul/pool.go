package backhaul

import (
	"cmp"
	"context"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/auth"
	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/tcp"
	"github.com/ebbkit/ebb/balance"
)

// pool keeps connections to peers: owners of machines, or machines. A peer is a name and an epoch, which for an owner is its
// incarnation; connections of an older epoch are never used again. The last used connection is used first, so that a burst's surplus dies of age.
type pool struct {
	poolConfig
	transport *http.Transport                                // of HTTP/1.1
	windows   [2][hop.Classes]atomic.Pointer[http.Transport] // of HTTP/2: without pings and with them, by class
	peers     sync.Map                                       // peerName -> *peer
	muxes     sync.Map                                       // peerKey -> *mux
	closed    atomic.Bool
	refused   atomic.Bool // a peer has refused a stream
	guards    tcp.Guards
	lingering atomic.Int64

	background context.Context // of connections that are made ahead; ends with the pool
	end        context.CancelFunc
}

// peerName names a peer: an owner by its node, a machine by its app and ID.
type peerName struct{ app, id string }

func ownerName(n balance.NodeID) peerName { return peerName{"", string(n)} }

func machineName(m *balance.Machine) peerName { return peerName{string(m.App), string(m.ID)} }

// peerKey names the HTTP/2 connections to a peer.
type peerKey struct {
	name peerName
	lane hop.Lane
}

type peer struct {
	pool *pool
	name peerName

	mu    sync.Mutex
	epoch uint64
	idle  []*conn // the last used one last
	timer *time.Timer
	gone  bool    // taken out of the pool: look again
	ahead bool    // a spare connection is being made
	ended []*conn // to be closed when pe.mu is given back
}

// unlock gives pe.mu back, and then closes the connections that have ended: what is below them is
// not ours, so no lock is held.
func (pe *peer) unlock() {
	ended := pe.ended
	pe.ended = nil
	pe.mu.Unlock()
	for _, c := range ended {
		c.close()
	}
}

type poolConfig struct {
	maxIdle       int
	spare         int // connections made ahead; 0 means none
	idleTimeout   time.Duration
	dialTimeout   time.Duration
	headerTimeout time.Duration
	maxHeader     int64

	bandwidth int64          // of a path, in bytes per second, for the windows of HTTP/2
	pressure  func() float64 // the part of the memory limit in use
	keys      []hop.AuthKey  // of the cluster; none: owners have certificates, or let anybody in
	near      bool           // the peers are machines: no choice of windows, and no pings, which some servers take for an attack
	pings     pings
}

// limit bounds connecting. An owner's proof takes one round trip more.
func (p *pool) limit(x *exchange) time.Duration {
	rtt := x.rtt
	if len(p.keys) > 0 {
		rtt += rtt / 3
	}
	return hop.DialLimit(rtt, x.rttKnown, p.dialTimeout)
}

// class chooses the windows of new connections.
func (p *pool) class(x *exchange, had int) int {
	if p.near {
		return hop.MinClass // they all have nearWindow
	}
	return hop.ChooseClass(x.rtt, x.rttKnown, p.bandwidth, p.pressure(), had)
}

// pings are what HTTP/2 asks whether its peer is there: after how long without a word, and how long it waits for one then. They
// are for connections that the kernel cannot be asked about. A ping waits behind what the peer does not take, and for a peer
// that stands still; who does not answer it may be slow.
type pings struct{ after, wait time.Duration }

// usualPings bound the silence to 5 s.
var usualPings = pings{2 * time.Second, 3 * time.Second}

// transport2 returns the transport whose connections have the windows of a class.
func (p *pool) transport2(class int, ping bool) *http.Transport {
	place := &p.windows[0][class]
	if ping {
		place = &p.windows[1][class]
	}
	if t := place.Load(); t != nil {
		return t
	}
	window := hop.WindowOf(class)
	if p.near {
		window = hop.NearWindow
	}
	t := &http.Transport{
		DialContext:            dialWire,
		DisableCompression:     true,
		ExpectContinueTimeout:  never,
		ResponseHeaderTimeout:  p.headerTimeout,
		MaxResponseHeaderBytes: p.maxHeader,
		Protocols:              new(http.Protocols),
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerConnection: hop.ConnWindow,
			MaxReceiveBufferPerStream:     window,
		},
	}
	t.Protocols.SetUnencryptedHTTP2(true)
	if ping {
		t.HTTP2.SendPingTimeout, t.HTTP2.PingTimeout = p.pings.after, p.pings.wait
	}
	if !place.CompareAndSwap(nil, t) {
		return place.Load()
	}
	return t
}

// never is how long a body waits for an owner's "100 Continue": the owner always answers, if only by breaking off.
const never = 24 * time.Hour

func newPool(c poolConfig) *pool {
	c.pings = cmp.Or(c.pings, usualPings)
	background, end := context.WithCancel(context.Background())
	return &pool{
		poolConfig: c, background: background, end: end,
		transport: &http.Transport{
			ReadBufferSize:         2 << 10, // most heads fit; large reads pass it by, and upgraded connections keep it
			DialContext:            dialWire,
			DisableCompression:     true, // bodies pass as they are
			ExpectContinueTimeout:  never,
			ResponseHeaderTimeout:  c.headerTimeout,
			MaxResponseHeaderBytes: c.maxHeader,
		},
	}
}

// dialer connects to a peer.
type dialer func(ctx context.Context) (net.Conn, error)

// dialing carries a dialer into the transport's DialContext, and the connection out of it; or in, where it is there already.
type dialing struct {
	pool *pool
	peer string
	dial dialer
	wire *wire
}

// connect connects to a peer. Of HTTP/2, hello is fed with what the peer says.
func (p *pool) connect(ctx context.Context, dial dialer, peer string, h *hello) (*wire, error) {
	nc, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	tcp.KeepAlive(nc)
	if !p.near {
		c, err := auth.Authenticate(ctx, nc, peer, p.keys, h != nil)
		if err != nil {
			nc.Close()
			return nil, err
		}
		nc = c
	}
	w := newWire(nc, h)
	w.follow.on = p.near && h == nil
	w.guarded.Watch(&p.guards, nc)
	return w, nil
}

type dialingKey struct{}

func dialWire(ctx context.Context, _, _ string) (net.Conn, error) {
	d := ctx.Value(dialingKey{}).(*dialing)
	if d.wire != nil {
		return d.wire, nil
	}
	w, err := d.pool.connect(ctx, d.dial, d.peer, nil)
	if err != nil {
		return nil, err
	}
	d.wire = w
	return w, nil
}

// get returns a connection for an exchange: an idle one, or a new one; of HTTP/2 also one that others use. fresh demands a
// new one, which nobody else uses before the exchange has ended. reused says that others have used it before.
func (p *pool) get(ctx context.Context, x *exchange, fresh bool) (c *conn, reused bool, err error) {
	if x.h2 {
		for {
			m := p.mux(peerKey{x.name, x.lane})
			if fresh || x.once && p.refused.Load() {
				c, err = m.own(ctx, x)
			} else {
				c, reused, err = m.get(ctx, x)
			}
			if err != errGone {
				return c, reused, err
			}
		}
	}
	pe := p.peer(x.name)
	if !fresh {
		if c := pe.take(x.epoch); c != nil {
			pe.prepare(x)
			return c, true, nil
		}
	}
	epoch := x.epoch
	if !p.near {
		epoch = pe.newest(epoch)
	}
	if c, err = pe.dial(ctx, x.dial, p.limit(x), epoch); err == nil {
		pe.prepare(x)
	}
	return c, false, err
}

// dial makes an HTTP/1.1 connection.
func (pe *peer) dial(ctx context.Context, dial dialer, limit time.Duration, epoch uint64) (*conn, error) {
	d := &dialing{pool: pe.pool, peer: pe.name.id, dial: dial}
	ctx = context.WithValue(ctx, dialingKey{}, d)
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	cc, err := pe.pool.transport.NewClientConn(ctx, "http", "peer:80")
	if err != nil {
		return nil, err
	}
	return &conn{cc: cc, wire: d.wire, peer: pe, epoch: epoch}, nil
}

func (p *pool) mux(k peerKey) *mux {
	if v, ok := p.muxes.Load(k); ok {
		return v.(*mux)
	}
	v, _ := p.muxes.LoadOrStore(k, &mux{pool: p, key: k})
	return v.(*mux)
}

func (p *pool) peer(name peerName) *peer {
	if v, ok := p.peers.Load(name); ok {
		return v.(*peer)
	}
	v, _ := p.peers.LoadOrStore(name, &peer{pool: p, name: name})
	return v.(*peer)
}

// take returns the last used connection that is still alive, or nil.
func (pe *peer) take(epoch uint64) *conn {
	for {
		c := pe.pop(epoch)
		if c == nil || c.free() && c.wire.still() {
			return c
		}
		c.close() // the peer closed it while it was idle, or sent what nobody had asked for
	}
}

// pop takes the last used connection out. A row of an owner's earlier incarnation may still be there when another row has
// told of the next: who owns the machine now says the process that there is. A machine's earlier epoch is over.
func (pe *peer) pop(epoch uint64) *conn {
	pe.mu.Lock()
	defer pe.unlock()
	pe.renew(epoch)
	if len(pe.idle) == 0 || epoch < pe.epoch && pe.pool.near {
		return nil
	}
	last := len(pe.idle) - 1
	c := pe.idle[last]
	pe.idle[last] = nil
	pe.idle = pe.idle[:last]
	return c
}

// newest returns the epoch of what is dialled now: perhaps a later one than the request knows.
func (pe *peer) newest(epoch uint64) uint64 {
	pe.mu.Lock()
	defer pe.mu.Unlock()
	return max(epoch, pe.epoch)
}

// renew drops the connections of an older epoch; pe.mu is held.
func (pe *peer) renew(epoch uint64) {
	if epoch > pe.epoch {
		pe.epoch = epoch
		pe.drop(len(pe.idle))
	}
}

// drop takes out the n oldest idle connections; pe.mu is held, and they are closed when it is given
// back.
func (pe *peer) drop(n int) {
	pe.ended = append(pe.ended, pe.idle[:n]...)
	pe.idle = slices.Delete(pe.idle, 0, n)
}

// put takes a connection back after its answer has been read, or closes it. One that was upgraded
// and has not been closed before has not ended well.
func (p *pool) put(c *conn) {
	if c.upgraded {
		c.wire.abort()
		return
	}
	if c.mux != nil {
		c.mux.put(c)
		return
	}
	if !c.free() || !p.keep(c) {
		c.close()
	}
}

func (p *pool) keep(c *conn) bool {
	pe := p.peer(c.peer.name) // the conn's own may have been taken out while it was in use
	pe.mu.Lock()
	defer pe.unlock()
	pe.renew(c.epoch)
	if p.closed.Load() || pe.gone || p.maxIdle <= 0 || c.epoch != pe.epoch {
		return false
	}
	if len(pe.idle) >= p.maxIdle {
		pe.drop(1)
	}
	c.wire.rest()
	c.peer, c.idleAt = pe, time.Now()
	pe.idle = append(pe.idle, c)
	if pe.timer == nil && p.idleTimeout > 0 {
		pe.timer = time.AfterFunc(p.idleTimeout, pe.expire)
	}
	return true
}

// expire closes what has been idle for too long, and takes a peer without connections out.
func (pe *peer) expire() {
	pe.mu.Lock()
	defer pe.unlock()
	now := time.Now()
	n := 0
	for n < len(pe.idle) && now.Sub(pe.idle[n].idleAt) >= pe.pool.idleTimeout {
		n++
	}
	pe.drop(n)
	pe.timer = nil
	if len(pe.idle) > 0 {
		pe.timer = time.AfterFunc(pe.idle[0].idleAt.Add(pe.pool.idleTimeout).Sub(now), pe.expire)
		return
	}
	pe.gone = true
	pe.pool.peers.CompareAndDelete(pe.name, pe)
}

// closeIdle closes all idle connections.
func (p *pool) closeIdle() {
	for _, v := range p.peers.Range {
		pe := v.(*peer)
		pe.mu.Lock()
		pe.drop(len(pe.idle))
		pe.unlock()
	}
	for _, v := range p.muxes.Range {
		v.(*mux).closeIdle()
	}
}

func (p *pool) close() {
	p.closed.Store(true)
	p.end()
	p.closeIdle()
	for _, v := range p.peers.Range {
		pe := v.(*peer)
		pe.mu.Lock()
		if pe.timer != nil {
			pe.timer.Stop()
		}
		pe.mu.Unlock()
	}
	for _, v := range p.muxes.Range {
		v.(*mux).stop()
	}
}
