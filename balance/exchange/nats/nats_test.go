package nats_test

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/exchange"
	"github.com/ebbkit/ebb/balance/exchange/exchangetest"
	"github.com/ebbkit/ebb/balance/exchange/nats"
	"github.com/ebbkit/ebb/balance/exchange/nats/embedded"
	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// rig is a server that can be restarted at its address.
type rig struct {
	t      testing.TB
	config embedded.Config
	server *embedded.Server
}

func newRig(t testing.TB, options func(*server.Options)) *rig {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	r := &rig{
		t: t, config: embedded.Config{Listen: l.Addr().String(), Dir: t.TempDir(), Options: options},
	}
	r.start()
	t.Cleanup(func() { r.server.Close() })
	return r
}

func (r *rig) start() {
	r.t.Helper()
	var err error
	if r.server, err = embedded.Start(r.config); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) interrupt(d time.Duration) {
	r.server.Close()
	time.Sleep(d)
	r.start()
}

func (r *rig) connect(node balance.NodeID, options ...natsgo.Option) *nats.Conn {
	r.t.Helper()
	c, err := nats.Connect(r.server.URL(), nats.Config{Node: node, Options: options})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(c.Close)
	return c
}

func TestExchange(t *testing.T) {
	exchangetest.Test(t, exchangetest.Engine{New: func(t *testing.T) exchangetest.Net {
		r := newRig(t, nil)
		return exchangetest.Net{
			Connect: func(id balance.NodeID) exchange.Exchange { return r.connect(id) },
			Store: func(id balance.NodeID) exchange.Store {
				s, err := r.connect(id).Store("test")
				if err != nil {
					t.Fatal(err)
				}
				return s
			},
			Interrupt: r.interrupt,
		}
	}})
}

// The documented permissions are enough, and allow no more.
func TestPermissions(t *testing.T) {
	const cluster, region = "prod", "nrt"
	user := func(n string) *server.User {
		r := strings.NewReplacer("<c>", cluster, "<r>", region, "<n>", n)
		return &server.User{Username: n, Password: n, Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Allow: strings.Fields(r.Replace(`
				ebb.<c>.*.<r>.<n> ebb.<c>.snap.*
				$JS.API.STREAM.INFO.KV_ebb_<c> $JS.API.DIRECT.GET.KV_ebb_<c>.> $JS.FC.KV_ebb_<c>.>
				$JS.API.CONSUMER.CREATE.KV_ebb_<c>.> $JS.API.CONSUMER.DELETE.KV_ebb_<c>.>
				$KV.ebb_<c>.> $JS.API.INFO $JS.API.STREAM.CREATE.KV_ebb_<c>`))},
			Subscribe: &server.SubjectPermission{
				Allow: []string{
					r.Replace("ebb.<c>.*.*.*"), r.Replace("ebb.<c>.snap.<n>"), r.Replace("_INBOX_<n>.>"),
				},
			},
			Response: &server.ResponsePermission{MaxMsgs: 1, Expires: time.Minute},
		}}
	}
	r := newRig(t, func(o *server.Options) { o.Users = []*server.User{user("w1"), user("w2")} })
	connect := func(n balance.NodeID) (*nats.Conn, *atomic.Int32) {
		refused := new(atomic.Int32)
		c, err := nats.Connect(r.server.URL(), nats.Config{
			Node: n, Options: []natsgo.Option{natsgo.UserInfo(string(n), string(n))},
			Trace: nats.Trace{Failed: func(error) { refused.Add(1) }},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c, refused
	}
	run := func(n balance.NodeID, x exchange.Exchange) *balance.Fleet {
		f, err := balance.NewFleet(balance.FleetConfig{Node: n, Region: region})
		if err != nil {
			t.Fatal(err)
		}
		l, err := exchange.New(f, x, exchange.Config{Cluster: cluster, Edge: true, Worker: true})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- l.Run(ctx) }()
		t.Cleanup(func() { cancel(); <-done })
		return f
	}
	c1, refused1 := connect("w1")
	c2, refused2 := connect("w2")
	f1, f2 := run("w1", c1), run("w2", c2)
	if _, err := f1.Host(balance.Machine{ID: "m1", App: "web", Region: region}); err != nil {
		t.Fatal(err)
	}
	wait(
		t, "the row has not arrived", func() bool { s, ok := f2.App("web"); return ok && s.Len() == 1 },
	)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := c2.Request(ctx, exchange.Subject{Cluster: cluster, Kind: "snap", Node: "w1"}, nil); err != nil {
		t.Errorf("a snapshot cannot be asked for: %v", err)
	}
	store, err := c1.Store(cluster)
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan exchange.Entry, 9)
	watching, stop := context.WithCancel(ctx)
	defer stop()
	go store.Watch(watching, func(e exchange.Entry) { told <- e })
	rev, err := store.Put(ctx, "app.web", []byte("1"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if e, err := store.Get(ctx, "app.web"); err != nil || e.Revision != rev {
		t.Errorf("got %+v, %v", e, err)
	}
	if err := store.Delete(ctx, "app.web", rev); err != nil {
		t.Error(err)
	}
	for e := range told {
		if e.Deleted {
			break
		}
	}
	stop()
	time.Sleep(50 * time.Millisecond) // the consumer is deleted
	if n := refused1.Load() + refused2.Load(); n != 0 {
		t.Fatalf("%d things were refused that the link or the store needs", n)
	}

	got := make(chan exchange.Message, 99)
	if _, err := c2.Subscribe(exchange.Subject{Cluster: cluster, Kind: "row", Node: "w1"}, func(m exchange.Message) { got <- m }); err != nil {
		t.Fatal(err)
	}
	c2.Publish(exchange.Subject{Cluster: cluster, Kind: "row", Region: region, Node: "w1"}, []byte("not mine"))
	c2.Publish(exchange.Subject{Cluster: cluster, Kind: "row", Region: "fra", Node: "w2"}, []byte("not my region"))
	wait(t, "writing as another node, or from another region, is not refused", func() bool { return refused2.Load() == 2 })
	if _, err := c2.Serve(exchange.Subject{Cluster: cluster, Kind: "snap", Node: "w1"}, func([]byte) []byte { return nil }); err != nil {
		t.Fatal(err)
	}
	wait(t, "answering for another node is not refused", func() bool { return refused2.Load() == 3 })
	if len(got) != 0 {
		t.Errorf("it arrived: %v", <-got)
	}
}

func wait(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for until := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal(what)
		}
	}
}

// Watches do not pile up at the server: after reconnects a bucket has as many consumers as watches.
func TestConsumersAfterReconnects(t *testing.T) {
	r := newRig(t, nil)
	c := r.connect("w1")
	s, err := c.Store("prod")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	told := make(chan exchange.Entry, 10_000)
	go func() { done <- s.Watch(ctx, func(e exchange.Entry) { told <- e }) }()
	wait(
		t, "the store cannot be written",
		func() bool { _, err := s.Put(ctx, "app.web", []byte("1"), 0); return err == nil },
	)
	<-told

	probe, err := natsgo.Connect(r.server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer probe.Close()
	js, err := jetstream.New(probe)
	if err != nil {
		t.Fatal(err)
	}
	reconnects := 100
	if testing.Short() {
		reconnects = 10
	}
	for range reconnects {
		if err := c.Reconnect(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-told: // all entries are told again
		case <-time.After(10 * time.Second):
			t.Fatal("the watch is silent after a reconnect")
		}
	}
	wait(t, "consumers stay at the server", func() bool {
		stream, err := js.Stream(ctx, "KV_ebb_prod")
		return err == nil && stream.CachedInfo().State.Consumers <= 2
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A bucket that was deleted and made again, with smaller revisions, is watched from its start.
func TestABucketMadeAgain(t *testing.T) {
	r := newRig(t, nil)
	s, err := r.connect("w1").Store("prod")
	if err != nil {
		t.Fatal(err)
	}
	var rev uint64
	for i := range 20 {
		if rev, err = s.Put(t.Context(), "app.web", fmt.Append(nil, i), rev); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	told := make(chan exchange.Entry, 100)
	go s.Watch(ctx, func(e exchange.Entry) { told <- e })
	if e := <-told; string(e.Value) != "19" || e.Deleted {
		t.Fatalf("told %+v", e)
	}
	probe, err := natsgo.Connect(r.server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer probe.Close()
	js, err := jetstream.New(probe)
	if err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteKeyValue(ctx, "ebb_prod"); err != nil {
		t.Fatal(err)
	}
	wait(
		t, "nothing can be put",
		func() bool { _, err := s.Put(ctx, "app.api", []byte("new"), 0); return err == nil },
	)
	select {
	case e := <-told:
		if e.Key != "app.api" || e.Deleted {
			t.Errorf("told %+v: a store that comes back empty deletes nothing", e)
		}
	case <-time.After(15 * time.Second):
		t.Error("the watch is silent")
	}
}

func TestEmbedded(t *testing.T) {
	dir := t.TempDir()
	s, err := embedded.Start(embedded.Config{Listen: "127.0.0.1:0", Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	addr := strings.TrimPrefix(s.URL(), "nats://")
	for _, c := range []struct {
		what, want string
		c          embedded.Config
	}{
		{"no folder", "Config.Dir is empty", embedded.Config{}},
		{"the same folder", "connect to that one instead", embedded.Config{Dir: dir}},
		{"the same port", "connect to it with nats://" + addr, embedded.Config{Listen: addr, Dir: t.TempDir()}},
		{"no port", `Config.Listen "localhost": want host:port`, embedded.Config{Listen: "localhost", Dir: t.TempDir()}},
		{"a cluster", "run nats-server apart", embedded.Config{Dir: t.TempDir(), Options: func(o *server.Options) { o.Cluster.Name = "c" }}},
	} {
		if other, err := embedded.Start(c.c); err == nil {
			other.Close()
			t.Errorf("%s: no error", c.what)
		} else if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.what, err, c.want)
		}
	}
	// The process that runs the server needs no network.
	c, err := nats.Connect("", nats.Config{Node: "w1", Server: s})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	store, err := c.Store("prod")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Put(t.Context(), "app.web", []byte("1"), 0); err != nil {
		t.Error(err)
	}
}

func TestConnect(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	for _, c := range []struct {
		want, url string
		c         nats.Config
	}{
		{"no URL", "", nats.Config{}},
		{"both set", "nats://127.0.0.1:1", nats.Config{Credentials: "a", NKey: "b"}},
		{"Config.NKey", "nats://127.0.0.1:1", nats.Config{NKey: missing}},
	} {
		if _, err := nats.Connect(c.url, c.c); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want %q", err, c.want)
		}
	}
	// A server that does not run yet is found once it does.
	r := newRig(t, nil)
	r.server.Close()
	c, err := nats.Connect(r.server.URL(), nats.Config{Node: "early"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got := make(chan exchange.Message, 1000)
	all := exchange.Subject{Cluster: "prod", Kind: "row"}
	if _, err := c.Subscribe(all, func(m exchange.Message) { got <- m }); err != nil {
		t.Fatal(err)
	}
	connected := make(chan struct{}, 1)
	c.OnReconnect(func() { connected <- struct{}{} })
	r.start()
	<-connected
	wait(t, "nothing passes", func() bool {
		c.Publish(
			exchange.Subject{Cluster: "prod", Kind: "row", Region: "nrt", Node: "early"}, []byte("x"),
		)
		return len(got) > 0
	})
}

// A node that the server refuses gets an error at once. A node whose credentials are changed later
// is admitted again once they are right.
func TestCredentials(t *testing.T) {
	password := "right"
	users := func(o *server.Options) { o.Username, o.Password = "ebb", password }
	r := newRig(t, users)
	var refused atomic.Int32
	connect := func(p func() string) (*nats.Conn, error) {
		return nats.Connect(r.server.URL(), nats.Config{
			Node: "w1", Options: []natsgo.Option{natsgo.UserInfoHandler(func() (string, string) { return "ebb", p() })},
			Trace: nats.Trace{Failed: func(error) { refused.Add(1) }},
		})
	}
	if c, err := connect(func() string { return "wrong" }); err == nil {
		c.Close()
		t.Error("the wrong password is no error")
	}
	var now atomic.Value
	now.Store("right")
	c, err := connect(func() string { return now.Load().(string) })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	back := make(chan struct{}, 1)
	c.OnReconnect(func() { back <- struct{}{} })
	r.server.Close()
	password = "rotated"
	r.start()
	wait(t, "the old password is not refused", func() bool { return refused.Load() > 2 })
	now.Store("rotated")
	select {
	case <-back:
	case <-time.After(10 * time.Second):
		t.Error("it does not get in with the new password")
	}
}

// freezer forwards connections to a server until it is frozen: then it reads everything and sends
// nothing, like a host that has vanished.
func freezer(t *testing.T, to string) (addr string, freeze func()) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var frozen atomic.Bool
	pipe := func(from, to net.Conn) {
		defer to.Close()
		for b := make([]byte, 64<<10); ; {
			n, err := from.Read(b)
			if err != nil {
				return
			}
			if !frozen.Load() {
				if _, err := to.Write(b[:n]); err != nil {
					return
				}
			}
		}
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", to)
			if err != nil {
				c.Close()
				continue
			}
			t.Cleanup(func() { c.Close(); s.Close() })
			go pipe(c, s)
			go pipe(s, c)
		}
	}()
	t.Cleanup(func() { l.Close() })
	return l.Addr().String(), func() { frozen.Store(true) }
}

// A silent server is left for another one within some seconds.
func TestASilentServerIsLeft(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 10 s")
	}
	r := newRig(t, nil)
	server := strings.TrimPrefix(r.server.URL(), "nats://")
	one, freeze := freezer(t, server)
	other, _ := freezer(t, server)
	connected := make(chan string, 9)
	c, err := nats.Connect("nats://"+one+",nats://"+other, nats.Config{
		Node: "w1", Options: []natsgo.Option{natsgo.DontRandomize(), natsgo.IgnoreDiscoveredServers()},
		Trace: nats.Trace{Connected: func(url string) { connected <- url }},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if url := <-connected; url != "nats://"+one {
		t.Fatalf("connected to %s, want the first server", url)
	}
	freeze()
	select {
	case url := <-connected:
		if url != "nats://"+other {
			t.Errorf("connected to %s, want the other server", url)
		}
	case <-time.After(20 * time.Second):
		t.Error("20 s have passed")
	}
}
