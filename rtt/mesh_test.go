package rtt_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ebbkit/ebb/internal/delay"
	"github.com/ebbkit/ebb/rtt"
)

var testKey = []byte("a secret of the whole test mesh")

// book is the list of nodes of a test mesh, as one of them sees it.
type book struct {
	mu    sync.Mutex
	nodes []rtt.Node
}

func (b *book) Peers() []rtt.Node {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]rtt.Node(nil), b.nodes...)
}

func (b *book) add(n rtt.Node) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.nodes = append(b.nodes, n)
}

// start runs a node of region and returns it; it ends with the test.
func start(t *testing.T, id, region string, edit func(*rtt.Config)) (*rtt.Mesh, *book) {
	t.Helper()
	b := &book{}
	c := rtt.Config{
		ID: id, Region: region, Key: testKey, Peers: b.Peers, Listen: "127.0.0.1:0",
	}
	if edit != nil {
		edit(&c)
	}
	m, err := rtt.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run of %s: %v", id, err)
		}
	})
	return m, b
}

// tables returns a Trace that passes on every table until ok returns true, and a func that waits
// for that.
func tables(t *testing.T, ok func(*rtt.Table) bool) (rtt.Trace, func()) {
	done := make(chan struct{})
	var once sync.Once
	return rtt.Trace{Table: func(tab *rtt.Table) {
			if ok(tab) {
				once.Do(func() { close(done) })
			}
		}}, func() {
			t.Helper()
			select {
			case <-done:
			case <-time.After(3 * time.Minute):
				t.Fatal("the table never came")
			}
		}
}

// relay returns an address from which packets reach that node half a round trip late.
func relay(t *testing.T, to netip.AddrPort, way time.Duration) netip.AddrPort {
	t.Helper()
	links := &delay.Links{}
	t.Cleanup(func() { links.Close() })
	links.Set("here", "there", way)
	addr, err := links.RelayUDP(t.Context(), "here", "there", to)
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

// Three nodes on loopback, two of them behind relays: distances, order, the own region, unknown
// regions.
func TestMeshMeasuresThroughRelays(t *testing.T) {
	trace, wait := tables(t, func(tab *rtt.Table) bool {
		a, okA := tab.To("osaka")
		b, okB := tab.To("paris")
		return okA && okB && a.Samples >= 3 && b.Samples >= 3
	})
	tokyo, peers := start(t, "tokyo", "nrt", func(c *rtt.Config) { c.Trace = trace })
	osaka, _ := start(t, "osaka", "kix", nil)
	paris, _ := start(t, "paris", "cdg", nil)

	peers.add(
		rtt.Node{ID: "osaka", Region: "kix", Addr: relay(t, osaka.Addr(), 10*time.Millisecond)},
	)
	peers.add(
		rtt.Node{ID: "paris", Region: "cdg", Addr: relay(t, paris.Addr(), 60*time.Millisecond)},
	)
	peers.add(rtt.Node{ID: "tokyo", Region: "nrt", Addr: tokyo.Addr()})
	tokyo.Refresh()
	wait()

	tab := tokyo.Table()
	for to, p := range tab.All() {
		t.Logf(
			"to %s: base %v p90 %v loss %v/%v age %v %v kernel=%v %v", to.ID, p.Base, p.P90, p.Loss,
			p.LossOut, p.Age, p.Source, p.Kernel, p.State,
		)
	}
	near, ok1 := tokyo.RTT("kix")
	far, ok2 := tokyo.RTT("cdg")
	if !ok1 || !ok2 || near < 10*time.Millisecond || far < 60*time.Millisecond || near >= far {
		t.Errorf("RTT kix %v %v, cdg %v %v: want at least 10ms and 60ms, near first", near, ok1, far, ok2)
	}
	if d, ok := tokyo.RTT("nrt"); d != 0 || !ok {
		t.Errorf("RTT of the own region is %v, %v; want 0, true", d, ok)
	}
	if d, ok := tokyo.RTT("gru"); d != 0 || ok {
		t.Errorf("RTT of an unknown region is %v, %v; want 0, false", d, ok)
	}
	if rs := tab.Regions(); len(rs) != 2 || rs[0].Name != "kix" || rs[1].Name != "cdg" {
		t.Errorf("regions: %v", rs)
	}
	t.Logf("%+v", tokyo.Counters())
}

// hole is a UDP port that never answers.
func hole(t *testing.T) netip.AddrPort {
	t.Helper()
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// If UDP is blocked the mesh switches to TCP by itself, and if TCP is blocked too, to HTTP.
func TestMeshFallsBack(t *testing.T) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodHead {
			t.Errorf("%s, want HEAD", r.Method)
		}
	}))
	defer web.Close()
	closed := netip.MustParseAddrPort(
		"127.0.0.1:1",
	) // nobody listens; a port that was just closed might be given to another

	trace, wait := tables(t, func(tab *rtt.Table) bool {
		for _, id := range []string{"tcp", "http", "tcp-only"} {
			if s, _ := tab.To(id); s.Samples < 2 {
				return false
			}
		}
		return true
	})
	m, peers := start(
		t, "a", "ra", func(c *rtt.Config) { c.Interval, c.Trace = 50*time.Millisecond, trace },
	)
	peers.add(
		rtt.Node{
			ID: "tcp", Region: "r1", Addr: hole(t), TCP: ln.Addr().(*net.TCPAddr).AddrPort(), HTTP: web.URL,
		},
	)
	peers.add(rtt.Node{ID: "http", Region: "r2", Addr: hole(t), TCP: closed, HTTP: web.URL})
	peers.add(rtt.Node{ID: "tcp-only", Region: "r3", TCP: ln.Addr().(*net.TCPAddr).AddrPort()})
	peers.add(rtt.Node{ID: "passive", Region: "r4"})
	m.Refresh()
	wait()
	tab := m.Table()
	for _, row := range []struct {
		id, region string
		want       string
	}{{"tcp", "r1", "tcp"}, {"http", "r2", "http"}, {"tcp-only", "r3", "tcp"}} {
		s, _ := tab.To(row.id)
		d, ok := tab.RTT(row.region)
		t.Logf("%s: %+v", row.id, s)
		if s.Source != row.want || !ok || d <= 0 {
			t.Errorf("%s: source %v, RTT %v, %v; want %v", row.id, s.Source, d, ok, row.want)
		}
	}
	if s, ok := tab.To("passive"); !ok || s.State != rtt.StateUnknown {
		t.Errorf("a node without an address: %+v, %v; want known to exist, and no more", s, ok)
	}
	if !m.Observe("passive", 30*time.Millisecond) ||
		m.Observe("nobody", 1) ||
		m.Observe("passive", -1) {
		t.Error("Observe believes the wrong samples")
	}
}

func TestMinRTT(t *testing.T) {
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	c, err := net.Dial("tcp", web.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	d, ok := rtt.MinRTT(c)
	if ok != (runtime.GOOS == "linux") || ok && (d <= 0 || d > 10*time.Second) {
		t.Errorf("a fresh connection on loopback: %v, %v", d, ok)
	}
	t.Log(d)
	p, q := net.Pipe()
	defer p.Close()
	defer q.Close()
	if _, ok := rtt.MinRTT(p); ok {
		t.Error("a pipe has a round trip")
	}
	c.Close()
	if _, ok := rtt.MinRTT(c); ok {
		t.Error("a closed connection has a round trip")
	}
}

func TestMeshIPv6(t *testing.T) {
	probe, err := net.ListenPacket("udp6", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6 on this machine")
	}
	probe.Close()
	for _, listen := range []string{"[::1]:0", ":0"} { // :0 takes both families, and IPv4 arrives mapped
		trace, wait := tables(t, func(tab *rtt.Table) bool {
			six, _ := tab.To("six")
			four, _ := tab.To("four")
			return six.Samples > 0 && (listen == "[::1]:0" || four.Samples > 0)
		})
		a, peers := start(t, "a", "ra", func(c *rtt.Config) { c.Listen, c.Trace = listen, trace })
		six, _ := start(t, "six", "r6", func(c *rtt.Config) { c.Listen = "[::1]:0" })
		four, _ := start(t, "four", "r4", nil)
		peers.add(six.Self())
		peers.add(four.Self())
		a.Refresh()
		wait()
	}
}

func TestNewSaysWhatIsWrong(t *testing.T) {
	good := rtt.Config{ID: "a", Key: testKey, Listen: "127.0.0.1:0"}
	m, err := rtt.New(good)
	if err != nil {
		t.Fatal(err)
	}
	if !m.Addr().IsValid() || m.Addr().Port() == 0 || m.Self().Addr != m.Addr() || m.Table() == nil {
		t.Errorf("before Run: addr %v, self %+v", m.Addr(), m.Self())
	}
	for _, row := range []struct {
		keys [][]byte
		want string
	}{
		{[][]byte{testKey, testKey, []byte("short")}, "key 3 of 3 has 5 bytes"},
		{[][]byte{testKey, testKey, testKey, testKey, testKey}, "SetKeys got 4 further keys"},
	} {
		err := m.SetKeys(row.keys[0], row.keys[1:]...)
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%v, want it to say %q", err, row.want)
		}
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if err := m.Run(t.Context()); err == nil {
		t.Error("Run after Close")
	}
	for _, row := range []struct {
		edit func(c *rtt.Config)
		want string
	}{
		{func(c *rtt.Config) { c.ID = "" }, "Config.ID"},
		{func(c *rtt.Config) { c.ID = strings.Repeat("x", 256) }, "Config.ID"},
		{func(c *rtt.Config) { c.Region = strings.Repeat("x", 256) }, "Config.Region"},
		{func(c *rtt.Config) { c.Key = nil }, "Config.Key has 0 bytes: use at least 16"},
		{func(c *rtt.Config) { c.Interval = -1 }, "Config.Interval"},
		{func(c *rtt.Config) { c.Interval = time.Millisecond }, "Config.Interval"},
		{func(c *rtt.Config) { c.Listen = "nowhere" }, `Config.Listen is "nowhere"`},
		{func(c *rtt.Config) { c.Conn = &net.UDPConn{} }, "Config.Conn is set"},
	} {
		c := good
		row.edit(&c)
		if _, err := rtt.New(c); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%v, want it to say %q", err, row.want)
		}
	}
}

// If the socket is closed from outside, Run returns the error.
func TestRunReturnsTheSocketsError(t *testing.T) {
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m, err := rtt.New(rtt.Config{ID: "a", Key: testKey, Conn: conn})
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if err := m.Run(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Run: %v, want net.ErrClosed", err)
	}
	if err := m.Run(t.Context()); err == nil || errors.Is(err, net.ErrClosed) {
		t.Errorf("second Run: %v", err)
	}
	if err := m.Close(); err != nil {
		t.Errorf("Close after Run: %v", err)
	}
}
