package pool

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/internal/nettest"
)

var pooledName = PeerName{"web", "m1"}

// pooled is a pool of connections to one machine, in a bubble.
func pooled(t *testing.T, dial Dialer) (*Pool, func(epoch uint64) *Exchange) {
	p := NewPool(
		PoolConfig{Near: true, MaxIdle: 100, IdleTimeout: 4 * time.Second, MaxHeader: 1 << 20},
	)
	if dial == nil {
		l := nettest.NewPipes()
		s := &http.Server{Handler: says("hello"), ErrorLog: quietLog}
		go s.Serve(l)
		t.Cleanup(func() { s.Close() })
		dial = l.Dial
	}
	t.Cleanup(p.Close)
	return p, func(epoch uint64) *Exchange {
		return &Exchange{Used: Used{Pool: p}, Peer: Peer{Name: pooledName, Epoch: epoch, Dial: dial}}
	}
}

func (p *Pool) must(t *testing.T, x *Exchange) (*Conn, bool) {
	t.Helper()
	c, reused, err := p.get(t.Context(), x, false)
	if err != nil {
		t.Fatal(err)
	}
	return c, reused
}

// A connection is of the epoch that it was made for, and serves no other: neither what a machine
// was asked in its last run, nor what it is asked in the next.
func TestConnectionsServeTheirOwnEpoch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, of := pooled(t, nil)
		pe := p.Peer(pooledName)
		second, _ := p.must(t, of(2))
		p.Put(second)
		first, reused := p.must(t, of(1))
		if reused || first == second || first.epoch != 1 {
			t.Errorf("a request of the first epoch gets a connection of epoch %d, reused %v", first.epoch,
				reused)
		}
		if p.Put(first); len(pe.Idle) != 1 || pe.Idle[0] != second || first.HTTP.Err() == nil {
			t.Errorf("a connection of an epoch that is over is kept: %d are idle", len(pe.Idle))
		}
		if c, reused := p.must(t, of(2)); !reused || c != second {
			t.Error("the connection of the present epoch is not used")
		}
		third, _ := p.must(t, of(3))
		p.Put(third)
		if p.Put(second); len(pe.Idle) != 1 || pe.Idle[0] != third || second.HTTP.Err() == nil {
			t.Errorf("a connection of the epoch before is kept: %d are idle", len(pe.Idle))
		}
	})
}

// announces is a machine that names its stream limit and says nothing more.
func announces(streams uint32) Dialer {
	return func(context.Context) (net.Conn, error) {
		a, b := net.Pipe()
		go func() {
			go b.Write(
				frame(
					hop.FrameSettings, 0, 0,
					append([]byte{0, hop.SettingStreams}, binary.BigEndian.AppendUint32(nil, streams)...)...),
			)
			io.Copy(io.Discard, b)
			b.Close()
		}()
		return a, nil
	}
}

func TestStreamsAreOfTheirOwnEpoch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, of := pooled(t, announces(100))
		x := of(2)
		x.H2 = true
		c, _ := p.must(t, x)
		defer c.Close()
		older := of(1)
		older.H2 = true
		for _, fresh := range []bool{false, true} {
			if _, _, err := p.get(t.Context(), older, fresh); err != errOlder {
				t.Errorf("fresh %v: a request of the epoch before gets %v, want %v", fresh, err, errOlder)
			}
		}
	})
}

// However many streams a peer would take, one connection carries no more than maxStreams.
func TestAConnectionCarriesABoundedNumberOfStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, of := pooled(t, announces(4*MaxStreams))
		x := of(1)
		x.H2 = true
		conns := map[*Conn]int{}
		for range MaxStreams + 1 {
			c, _ := p.must(t, x)
			conns[c]++
		}
		for c, n := range conns {
			if n > MaxStreams {
				t.Errorf("a connection carries %d streams", n)
			}
			c.Close()
		}
		if len(conns) != 2 {
			t.Errorf("%d connections for %d streams", len(conns), MaxStreams+1)
		}
	})
}

// Connections that are idle are closed in time, also the ones that were not the first to be, or
// that one request had to itself.
func TestEveryIdleConnectionIsClosedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, of := pooled(t, nil)
		one, _ := p.must(t, of(1))
		two, _ := p.must(t, of(1))
		p.Put(one)
		time.Sleep(time.Second)
		p.Put(two)
		time.Sleep(3*time.Second + time.Millisecond)
		if one.HTTP.Err() == nil || two.HTTP.Err() != nil {
			t.Errorf("after 4 s: the one says %v, the other %v; want the first closed", one.HTTP.Err(),
				two.HTTP.Err())
		}
		time.Sleep(time.Second)
		if two.HTTP.Err() == nil {
			t.Error("the connection that was idle later is not closed")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		p, of := pooled(t, announces(100))
		p.refused.Store(true)
		x := of(1)
		x.H2, x.Once = true, true
		c, _ := p.must(t, x)
		c.HTTP.Release()
		p.Put(c)
		time.Sleep(4*time.Second - time.Millisecond)
		if c.HTTP.Err() != nil {
			t.Errorf("closed before its time: %v", c.HTTP.Err())
		}
		time.Sleep(5 * time.Second)
		if c.HTTP.Err() == nil {
			t.Error("an idle connection of HTTP/2 is not closed")
		}
	})
}

// brittle is a connection that may die without anybody noticing before a write.
type brittle struct {
	net.Conn
	dead atomic.Bool
}

func (b *brittle) Write(p []byte) (int, error) {
	if b.dead.Load() {
		return 0, errors.New("dead")
	}
	return b.Conn.Write(p)
}

// However many pooled connections have died, a request gets a new one after a few of them.
func TestDeadPooledConnectionsAreNotDrawnForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all []*brittle
		l := nettest.NewPipes()
		s := &http.Server{Handler: says("hello"), ErrorLog: quietLog}
		go s.Serve(l)
		defer s.Close()
		p, of := pooled(t, func(ctx context.Context) (net.Conn, error) {
			c, err := l.Dial(ctx)
			b := &brittle{Conn: c}
			all = append(all, b)
			return b, err
		})
		var conns []*Conn
		for range 2 * (MaxStale + MaxOwn) {
			c, _ := p.must(t, of(1))
			conns = append(conns, c)
		}
		for i, c := range conns {
			p.Put(c)
			all[i].dead.Store(true)
		}
		x := of(1)
		resp, fail, err := x.Do(request(t, "GET", "http://peer/", nil))
		if err != nil {
			t.Fatalf("%v: %v", fail, err)
		}
		if got := read(t, resp, err); got != "hello" || len(all) != len(conns)+1 {
			t.Errorf("got %q over connection %d, want the one after the %d dead ones", got, len(all),
				len(conns))
		}
		x.Release()
	})
}

// A body of which something went out and was not kept is not sent on from where the last try had
// come to.
func TestABodyIsNotSentWithAHole(t *testing.T) {
	s := &Body{Body: io.NopCloser(strings.NewReader("abcdef"))}
	one := newReader(s, false)
	if b := make([]byte, 3); true {
		if n, err := one.Read(b); n != 3 || err != nil {
			t.Fatal(n, err)
		}
	}
	one.end()
	if b, err := io.ReadAll(newReader(s, false)); len(b) > 0 || err != errBodySpent {
		t.Errorf("the next try sends %q, %v; want nothing, and %v", b, err, errBodySpent)
	}
}
