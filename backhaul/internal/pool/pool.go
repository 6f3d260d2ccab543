package pool

import (
	"cmp"
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/auth"
	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/tcp"
	"github.com/ebbkit/ebb/balance"
)

// Pool keeps connections to peers: owners of machines, or machines. A peer is a name and an epoch,
// which for an owner is its incarnation; connections of an older epoch are never used again. The
// most recently used connection is used first, so that those of a burst expire.
type Pool struct {
	PoolConfig
	transport *http.Transport // for HTTP/1.1
	// for HTTP/2: without and with pings, by class
	windows   [2][hop.Classes]atomic.Pointer[http.Transport]
	Peers     sync.Map // peerName -> *peer
	Muxes     sync.Map // peerKey -> *mux
	closed    atomic.Bool
	refused   atomic.Bool // a peer has refused a stream
	Guards    tcp.Guards
	Lingering atomic.Int64

	background context.Context // for connections made ahead of requests; ends with the pool
	end        context.CancelFunc
}

// PeerName names a peer: an owner by its node, a machine by its app and ID.
type PeerName struct{ App, ID string }

func OwnerName(n balance.NodeID) PeerName { return PeerName{"", string(n)} }

func MachineName(m *balance.Machine) PeerName { return PeerName{string(m.App), string(m.ID)} }

// PeerKey names the HTTP/2 connections to a peer.
type PeerKey struct {
	Name PeerName
	Lane hop.Lane
}

type PoolConfig struct {
	MaxIdle       int
	Spare         int // connections made ahead; 0 means none
	IdleTimeout   time.Duration
	DialTimeout   time.Duration
	HeaderTimeout time.Duration
	MaxHeader     int64

	Bandwidth int64          // of a path in bytes per second, for HTTP/2 windows
	Pressure  func() float64 // the part of the memory limit in use
	Keys      []hop.AuthKey  // of the cluster; none: owners have certificates or accept everybody
	// the peers are machines: windows of one size, and no pings, which some servers take for an attack
	Near  bool
	Pings Pings
}

// Limit bounds connecting. A proof by an owner adds one round trip.
func (p *Pool) Limit(x *Exchange) time.Duration {
	rtt := x.RTT
	if len(p.Keys) > 0 {
		rtt += rtt / 3
	}
	return hop.DialLimit(rtt, x.RTTKnown, p.DialTimeout)
}

// class chooses the windows of new connections.
func (p *Pool) class(x *Exchange, had int) int {
	if p.Near {
		return hop.MinClass // they all have nearWindow
	}
	return hop.ChooseClass(x.RTT, x.RTTKnown, p.Bandwidth, p.Pressure(), had)
}

// Pings says how HTTP/2 checks that its peer is there: after how long a silence, and how long it
// waits for a reply. Pings are for connections that the kernel cannot report on. They queue behind
// data that the peer has not read, so a peer that does not reply may only be slow.
type Pings struct{ After, Wait time.Duration }

// UsualPings bounds the silence to 5 s.
var UsualPings = Pings{2 * time.Second, 3 * time.Second}

// transport2 returns the transport whose connections have the windows of a class.
func (p *Pool) transport2(class int, ping bool) *http.Transport {
	place := &p.windows[0][class]
	if ping {
		place = &p.windows[1][class]
	}
	if t := place.Load(); t != nil {
		return t
	}
	window := hop.WindowOf(class)
	if p.Near {
		window = hop.NearWindow
	}
	t := &http.Transport{
		DialContext:            dialWire,
		DisableCompression:     true,
		ExpectContinueTimeout:  Never,
		ResponseHeaderTimeout:  p.HeaderTimeout,
		MaxResponseHeaderBytes: p.MaxHeader,
		Protocols:              new(http.Protocols),
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerConnection: hop.ConnWindow,
			MaxReceiveBufferPerStream:     window,
		},
	}
	t.Protocols.SetUnencryptedHTTP2(true)
	if ping {
		t.HTTP2.SendPingTimeout, t.HTTP2.PingTimeout = p.Pings.After, p.Pings.Wait
	}
	if !place.CompareAndSwap(nil, t) {
		return place.Load()
	}
	return t
}

// Never is how long a body waits for an owner's "100 Continue": the owner always answers or closes.
const Never = 24 * time.Hour

func NewPool(c PoolConfig) *Pool {
	c.Pings = cmp.Or(c.Pings, UsualPings)
	background, end := context.WithCancel(context.Background())
	return &Pool{
		PoolConfig: c, background: background, end: end,
		transport: &http.Transport{
			// enough for most heads; large reads bypass it, and upgraded connections keep it
			ReadBufferSize:         2 << 10,
			DialContext:            dialWire,
			DisableCompression:     true, // bodies pass as they are
			ExpectContinueTimeout:  Never,
			ResponseHeaderTimeout:  c.HeaderTimeout,
			MaxResponseHeaderBytes: c.MaxHeader,
		},
	}
}

// Dialer connects to a peer.
type Dialer func(ctx context.Context) (net.Conn, error)

// dialing carries a dialer into the transport's DialContext and the connection out of it, or in, if
// there is one already.
type dialing struct {
	pool *Pool
	peer string
	dial Dialer
	wire *Wire
}

// Connect connects to a peer. Over HTTP/2, hello is fed with what the peer sends.
func (p *Pool) Connect(ctx context.Context, dial Dialer, peer string, h *hello) (*Wire, error) {
	nc, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	tcp.KeepAlive(nc)
	if !p.Near {
		c, err := auth.Authenticate(ctx, nc, peer, p.Keys, h != nil)
		if err != nil {
			nc.Close()
			return nil, err
		}
		nc = c
	}
	w := NewWire(nc, h)
	w.follow.on = p.Near && h == nil
	w.guarded.Watch(&p.Guards, nc)
	return w, nil
}

type dialingKey struct{}

func dialWire(ctx context.Context, _, _ string) (net.Conn, error) {
	d := ctx.Value(dialingKey{}).(*dialing)
	if d.wire != nil {
		return d.wire, nil
	}
	w, err := d.pool.Connect(ctx, d.dial, d.peer, nil)
	if err != nil {
		return nil, err
	}
	d.wire = w
	return w, nil
}

// get returns a connection for an exchange: an idle one or a new one, or over HTTP/2 one that
// others use. fresh demands a new one that no other exchange uses until this one has ended. reused
// says that others have used it before.
func (p *Pool) get(ctx context.Context, x *Exchange, fresh bool) (c *Conn, reused bool, err error) {
	if x.H2 {
		for {
			m := p.Mux(PeerKey{x.Name, x.Lane})
			if fresh || x.Once && p.refused.Load() {
				c, err = m.own(ctx, x)
			} else {
				c, reused, err = m.get(ctx, x)
			}
			if err != errGone {
				return c, reused, err
			}
		}
	}
	pe := p.Peer(x.Name)
	if !fresh {
		if c := pe.Take(x.Epoch); c != nil {
			pe.prepare(x)
			return c, true, nil
		}
	}
	epoch := x.Epoch
	if !p.Near {
		epoch = pe.newest(epoch)
	}
	if c, err = pe.dial(ctx, x.Dial, p.Limit(x), epoch); err == nil {
		pe.prepare(x)
	}
	return c, false, err
}

func (p *Pool) Mux(k PeerKey) *mux {
	if v, ok := p.Muxes.Load(k); ok {
		return v.(*mux)
	}
	v, _ := p.Muxes.LoadOrStore(k, &mux{pool: p, key: k})
	return v.(*mux)
}

func (p *Pool) Peer(name PeerName) *peer {
	if v, ok := p.Peers.Load(name); ok {
		return v.(*peer)
	}
	v, _ := p.Peers.LoadOrStore(name, &peer{Pool: p, name: name})
	return v.(*peer)
}

// Put takes a connection back after its answer has been read, or closes it. An upgraded connection
// that has not been closed before did not end cleanly.
func (p *Pool) Put(c *Conn) {
	if c.Upgraded {
		c.Wire.Abort()
		return
	}
	if c.mux != nil {
		c.mux.put(c)
		return
	}
	if !c.Free() || !p.keep(c) {
		c.Close()
	}
}

func (p *Pool) keep(c *Conn) bool {
	pe := p.Peer(c.Peer.name) // the conn's own may have been removed while it was in use
	pe.Mu.Lock()
	defer pe.unlock()
	pe.renew(c.epoch)
	if p.closed.Load() || pe.gone || p.MaxIdle <= 0 || c.epoch != pe.Epoch {
		return false
	}
	if len(pe.Idle) >= p.MaxIdle {
		pe.drop(1)
	}
	c.Wire.rest()
	c.Peer, c.idleAt = pe, time.Now()
	pe.Idle = append(pe.Idle, c)
	if pe.timer == nil && p.IdleTimeout > 0 {
		pe.timer = time.AfterFunc(p.IdleTimeout, pe.expire)
	}
	return true
}

// CloseIdle closes all idle connections.
func (p *Pool) CloseIdle() {
	for _, v := range p.Peers.Range {
		pe := v.(*peer)
		pe.Mu.Lock()
		pe.drop(len(pe.Idle))
		pe.unlock()
	}
	for _, v := range p.Muxes.Range {
		v.(*mux).closeIdle()
	}
}

func (p *Pool) Close() {
	p.closed.Store(true)
	p.end()
	p.CloseIdle()
	for _, v := range p.Peers.Range {
		pe := v.(*peer)
		pe.Mu.Lock()
		if pe.timer != nil {
			pe.timer.Stop()
		}
		pe.Mu.Unlock()
	}
	for _, v := range p.Muxes.Range {
		v.(*mux).stop()
	}
}
