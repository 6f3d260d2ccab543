package rtt

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/internal/nettest"
	"github.com/ebbkit/ebb/rtt/internal/probe"
)

// fleet is a socket with n nodes behind it, which answer as a Mesh would, each at its own distance.
// They also probe as often as they are probed, so that the traffic is that of a mesh of equal
// nodes.
type fleet struct {
	*nettest.PacketConn
	net    *nettest.Datagrams
	mu     sync.Mutex
	codec  *probe.Codec
	nodes  []*probe.Reflector
	seq    []uint64
	out    int // bytes the mesh sent
	in     int // bytes it received
	probes int
}

func newFleet(n int) *fleet {
	f := &fleet{codec: probe.NewCodec([][]byte{secretA}), seq: make([]uint64, n)}
	f.net = nettest.NewDatagrams(nil)
	f.PacketConn = f.net.Listen(fleetSelf)
	for i := range n {
		r := probe.NewReflector(probe.Session(fleetID(i), 1), 100, 100, 4)
		p := probe.NewProbe(1, 1, 1)
		r.Answer(time.Now(), &p) // now, so that the memory of its state is not counted
		f.nodes = append(f.nodes, r)
	}
	return f
}

// fleetSelf is the address of the mesh that probes the fleet.
var fleetSelf = simAddr(65535)

func fleetID(i int) string { return fmt.Sprintf("node-%04d", i) }

func (f *fleet) peers(regions int) (out []Node) {
	for i := range f.nodes {
		out = append(
			out, Node{ID: fleetID(i), Region: fmt.Sprintf("region-%02d", i%regions), Addr: simAddr(i)},
		)
	}
	return out
}

func (f *fleet) WriteTo(b []byte, to net.Addr) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.out += len(b)
	a := addrPort(to).Addr().As4()
	i := int(a[2])<<8 | int(a[3])
	var p probe.Packet
	if f.codec.Open(b, &p) != probe.DropNone || p.IsReply() {
		return len(b), nil
	}
	f.probes++
	if f.nodes[i].Answer(time.Now(), &p) != probe.DropNone {
		return len(b), nil
	}
	f.later(i, p)
	f.seq[i]++
	f.later(i, probe.NewProbe(probe.Session(fleetID(i), 1), f.seq[i], 1))
	return len(b), nil
}

// later delivers p from node i after its distance of 1 to 200 ms.
func (f *fleet) later(i int, p probe.Packet) {
	raw := make([]byte, probe.PacketSize)
	f.codec.Seal((*[probe.PacketSize]byte)(raw), &p)
	time.AfterFunc(time.Duration(1+i*37%200)*ms, func() {
		f.mu.Lock()
		f.in += len(raw)
		f.mu.Unlock()
		f.net.Deliver(simAddr(i), fleetSelf, raw)
	})
}

// 500 peers at the default schedule: at most 60 kB/s each way, headers included, and 1 MB of
// memory.
func TestScale500Peers(t *testing.T) {
	const n, seconds, headers = 500, 15, 28
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(n)
		var before, after runtime.MemStats
		runtime.GC()
		runtime.GC() // pools release their contents on the second
		runtime.ReadMemStats(&before)
		m, err := New(Config{ID: "me", Region: "home", Key: secretA, Peers: fixed(f.peers(40)), Conn: f})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { m.Run(ctx); close(done) }()
		defer func() { cancel(); <-done }()

		time.Sleep(12 * time.Second) // start-up: three probes each, within the budget
		known := 0
		for _, p := range m.Table().All() {
			if p.Samples >= 3 {
				known++
			}
		}
		if known < n*99/100 {
			t.Errorf("after 12 s %d of %d peers have three samples", known, n)
		}
		f.mu.Lock()
		f.out, f.in, f.probes = 0, 0, 0
		f.mu.Unlock()
		time.Sleep(seconds * time.Second)
		f.mu.Lock()
		packet := float64(probe.PacketSize + headers)
		out, in := float64(
			f.out,
		)*packet/probe.PacketSize/seconds/1000, float64(
			f.in,
		)*packet/probe.PacketSize/seconds/1000
		probes := float64(f.probes) / seconds
		f.mu.Unlock()
		size := 1e9 // the least of several readings: one of them may include what another test left
		for range 5 {
			time.Sleep(time.Second)
			runtime.GC()
			runtime.ReadMemStats(&after)
			size = min(size, float64(int64(after.HeapAlloc)-int64(before.HeapAlloc))/1e6)
		}
		t.Logf("500 peers: %.0f probes/s, %.1f kB/s out, %.1f kB/s in, %.2f MB", probes, out, in, size)
		if out > 60 || in > 60 {
			t.Errorf("%.1f kB/s out, %.1f kB/s in; want at most 60 each way", out, in)
		}
		// In a heap profile the Mesh takes 0.95 MB of this; the list of peers, packets under way
		// and the runtime take the rest.
		if size > 1.6 {
			t.Errorf("%.2f MB for 500 peers, want 1 MB", size)
		}
		for to, p := range m.Table().All() {
			if p.State != StateFresh {
				t.Errorf("%s: %v, age %v", to.ID, p.State, p.Age)
			}
		}
		runtime.KeepAlive(m)
	})
}

// All peers are near: the budget holds even so.
func TestScaleBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(400)
		few := usual
		few.budget, few.peers = 50, 300
		m, err := newMesh(Config{ID: "me", Key: secretA, Peers: fixed(f.peers(400)), Conn: f}, few)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { m.Run(ctx); close(done) }()
		defer func() { cancel(); <-done }()
		time.Sleep(40 * time.Second)
		f.mu.Lock()
		f.probes = 0
		f.mu.Unlock()
		const seconds = 30
		time.Sleep(seconds * time.Second)
		f.mu.Lock()
		defer f.mu.Unlock()
		fresh := 0
		for _, p := range m.Table().All() {
			if p.State == StateFresh {
				fresh++
			}
		}
		t.Logf(
			"budget 50/s: %.1f probes/s, %d of 300 chosen peers fresh", float64(f.probes)/seconds, fresh,
		)
		if f.probes > 50*seconds || f.probes < 35*seconds || fresh < 299 {
			t.Errorf("%d probes in 30 s, %d of 300 fresh", f.probes, fresh)
		}
	})
}
