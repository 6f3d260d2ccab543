// Sleeps here are virtual: nettest.Virtual is a bubble of testing/synctest.

package node

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ebbkit/ebb/backhaul"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/exchange"
	"github.com/ebbkit/ebb/downscale"
	"github.com/ebbkit/ebb/internal/nettest"
)

// A first request right after launch reaches an edge that has not heard of any machine yet.
func TestAFirstRequestRightAfterLaunch(t *testing.T) {
	nettest.Virtual(t, func(t *testing.T) {
		w := newTown(t)
		w.join("w1", "hkg", RoleWorker, []App{{App: web, Machines: 1}}, nil)
		e := w.join("e1", "nrt", RoleEdge, []App{{App: web}}, nil)
		if status, body := e.get("http://web/"); status != 200 || body != "web-w1-1 says /" {
			t.Errorf("%d %q", status, body)
		}
		w.close()
	})
}

// An edge that does not know an app asks the workers once before it answers 404, and remembers
// that.
func TestAnEdgeAsksForAnAppItDoesNotKnow(t *testing.T) {
	nettest.Virtual(t, func(t *testing.T) {
		w := newTown(t)
		late := web
		late.ID = "late"
		w.join("w1", "hkg", RoleWorker, []App{{App: web, Machines: 1}, {App: late, Machines: 1}}, nil)
		e := w.join("e1", "nrt", RoleEdge, []App{{App: web}}, nil)
		time.Sleep(5 * time.Second)
		if status, body := e.get("http://late/"); status != 200 || body != "late-w1-1 says /" {
			t.Errorf("%d %q", status, body)
		}
		began := time.Now()
		if status, _ := e.get("http://nobody/"); status != 404 {
			t.Errorf("an app that nobody has: %d", status)
		}
		if took := time.Since(began); took < 46*time.Millisecond || took > 400*time.Millisecond {
			t.Errorf("it asked for %v", took)
		}
		began = time.Now()
		for range 100 {
			e.get("http://nobody/")
		}
		if took := time.Since(began); took > 10*time.Millisecond {
			t.Errorf("it asks again: 100 requests took %v", took)
		}
		w.close()
	})
}

// load sends requests to edges one after another; every other one is not idempotent.
type load struct {
	sent, failed atomic.Int64
	stop         context.CancelFunc
	all          sync.WaitGroup
	mu           sync.Mutex
	wrong        []string
	executed     map[string]int // by the number of the request
	strict       bool           // no answer may break off
}

// handler records what is executed, and takes a while for each.
func (l *load) handler(takes time.Duration) func(balance.Machine) http.Handler {
	return func(m balance.Machine) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			l.mu.Lock()
			l.executed[r.URL.RawQuery]++
			l.mu.Unlock()
			time.Sleep(takes)
			fmt.Fprint(rw, m.ID)
		})
	}
}

// judge records a request that must not end in this way.
func (l *load) judge(e *member, n string, post bool, began time.Time, status int, body string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	times := l.executed[n]
	switch {
	case post && times > 1, post && status == http.StatusServiceUnavailable && times > 0:
	case status == http.StatusOK, e.isDead(), post && status == http.StatusBadGateway && !l.strict:
		return
	}
	l.failed.Add(1)
	l.wrong = append(l.wrong, fmt.Sprintf(
		"%s at %s by %s after %v: %d %s, executed %d times", n, began.Format("05.000"), e.id, time.Since(began),
		status, body, times,
	))
}

func newLoad() *load { return &load{executed: map[string]int{}} }

func (l *load) run(t *testing.T, every time.Duration, edges func() []*member) {
	ctx, stop := context.WithCancel(t.Context())
	l.stop = stop
	l.all.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			es := edges()
			e := es[i/2%len(es)]
			l.sent.Add(1)
			l.all.Go(func() {
				began, n, method := time.Now(), fmt.Sprint(i), http.MethodGet
				if i%2 > 0 {
					method = http.MethodPost
				}
				status, body := e.do(method, "http://web/?"+n)
				l.judge(e, n, i%2 > 0, began, status, body)
			})
			time.Sleep(every)
		}
	})
}

func (l *load) end(t *testing.T) {
	t.Helper()
	l.stop()
	l.all.Wait()
	if n := l.failed.Load(); n > 0 {
		t.Errorf(
			"%d of %d requests went wrong at edges that lived: %s", n, l.sent.Load(),
			strings.Join(l.wrong[:min(len(l.wrong), 10)], "\n"),
		)
	}
}

func (m *member) isDead() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dead
}

// Two edges and two workers: a worker is lost, an edge is lost and comes back, the worker comes
// back and the other one leaves in order. No request fails whose edge lived. The same holds when
// the exchange loses, repeats and reorders messages.
func TestNothingIsLostWhenNodesFail(t *testing.T) {
	t.Run("good", func(t *testing.T) { nodesFail(t, exchange.MemoryConfig{}) })
	for seed := range uint64(1) {
		t.Run(fmt.Sprintf("bad/seed=%d", seed), func(t *testing.T) {
			nodesFail(
				t, exchange.MemoryConfig{Jitter: 30 * time.Millisecond, Lose: 0.1, Repeat: 0.1, Seed: seed},
			)
		})
	}
}

func nodesFail(t *testing.T, c exchange.MemoryConfig) {
	nettest.Virtual(t, func(t *testing.T) {
		w := newBadTown(t, c)
		app := web
		app.Limits = balance.Limits{Soft: 4, Hard: 8}
		hosted, served := []App{{App: app, Machines: 2}}, []App{{App: app}}
		w1 := w.join("w1", "nrt", RoleWorker, hosted, nil)
		w2 := w.join("w2", "hkg", RoleWorker, hosted, nil)
		e1, e2 := w.join("e1", "nrt", RoleEdge, served, nil), w.join("e2", "nrt", RoleEdge, served, nil)
		l := newLoad()
		for _, m := range []*member{w1, w2} {
			m.driver.handle = l.handler(100 * time.Millisecond)
		}
		var mu sync.Mutex
		edges := []*member{e1, e2}
		l.run(t, 20*time.Millisecond, func() []*member {
			mu.Lock()
			defer mu.Unlock()
			return edges
		})
		set := func(es ...*member) {
			mu.Lock()
			defer mu.Unlock()
			edges = es
		}
		time.Sleep(10 * time.Second)
		w1.kill()
		time.Sleep(10 * time.Second)
		if len(w2.driver.Calls()) == 0 {
			t.Error("nothing was started where the lost worker's machines are missing")
		}
		e1.kill()
		set(e2)
		time.Sleep(time.Second)
		e1 = w.join("e1", "nrt", RoleEdge, served, nil)
		set(e1, e2)
		time.Sleep(10 * time.Second)
		w1 = w.join("w1", "nrt", RoleWorker, hosted, nil)
		w1.driver.handle = l.handler(100 * time.Millisecond)
		time.Sleep(10 * time.Second)
		w2.end()
		time.Sleep(10 * time.Second)
		l.end(t)
		if len(w1.driver.Calls()) == 0 {
			t.Error("nothing was started when the other worker had left")
		}
		w.close()
	})
}

// Every node is shut down in order and restarted, one after another, under load: no request of any
// kind fails.
func TestARollingRestartCostsNothing(t *testing.T) {
	nettest.Virtual(t, func(t *testing.T) {
		w := newTown(t)
		app := web
		app.Limits = balance.Limits{Soft: 4, Hard: 8}
		l := newLoad()
		l.strict = true
		begin := func(id balance.NodeID) *member {
			if strings.HasPrefix(string(id), "e") {
				return w.join(id, "nrt", RoleEdge, []App{{App: app}}, nil)
			}
			m := w.join(id, "nrt", RoleWorker, []App{{App: app, Machines: 2}}, nil)
			m.driver.handle = l.handler(100 * time.Millisecond)
			return m
		}
		var mu sync.Mutex
		nodes, down := map[balance.NodeID]*member{}, balance.NodeID("")
		ids := []balance.NodeID{"e1", "e2", "w1", "w2"}
		for _, id := range ids {
			nodes[id] = begin(id)
		}
		l.run(t, 20*time.Millisecond, func() (es []*member) {
			mu.Lock()
			defer mu.Unlock()
			for _, id := range ids[:2] {
				if id != down {
					es = append(es, nodes[id])
				}
			}
			return es
		})
		time.Sleep(10 * time.Second)
		for _, id := range ids {
			mu.Lock()
			down = id
			mu.Unlock()
			nodes[id].client.CloseIdleConnections()
			nodes[id].end()
			again := begin(id)
			time.Sleep(5 * time.Second)
			mu.Lock()
			nodes[id], down = again, ""
			mu.Unlock()
			time.Sleep(5 * time.Second)
		}
		l.end(t)
		w.close()
	})
}

// While the exchange is down machines wake by orders, and nothing is stopped.
func TestTheExchangeStandsStill(t *testing.T) {
	nettest.Virtual(t, func(t *testing.T) {
		w := newTown(t)
		app := web
		app.KeepAlive = 10 * time.Second
		other := app
		other.ID = "other"
		w1 := w.join(
			"w1", "hkg", RoleWorker, []App{{App: app, Machines: 1}, {App: other, Machines: 1}}, nil,
		)
		e := w.join("e1", "nrt", RoleEdge, []App{{App: app}, {App: other}}, nil)
		time.Sleep(6 * time.Second)
		if status, _ := e.get("http://other/"); status != 200 {
			t.Fatal(status)
		}
		w.memory.Cut()
		began := time.Now()
		if status, body := e.get("http://web/"); status != 200 {
			t.Errorf("%d %q", status, body)
		}
		if took := time.Since(began); took > 1500*time.Millisecond {
			t.Errorf("a boot of 1 s took %v", took)
		}
		time.Sleep(60 * time.Second)
		for _, c := range w1.driver.Calls() {
			if strings.HasPrefix(c, "stop") {
				t.Errorf("%s on views that are late", c)
			}
		}
		for _, url := range []string{"http://web/", "http://other/"} {
			if status, body := e.get(url); status != 200 {
				t.Errorf("%s: %d %q", url, status, body)
			}
		}
		w.memory.Join()
		time.Sleep(40 * time.Second)
		if calls := strings.Join(w1.driver.Calls(), ", "); strings.Count(calls, "stop") != 2 {
			t.Errorf("both sleep when the exchange is back: %s", calls)
		}
		w.close()
	})
}

// Slots of machines that take one request at a time are granted, not guessed: the limit holds at
// the app, and hardly any request is refused.
func TestSlotsAreGrantedAcrossNodes(t *testing.T) {
	nettest.Virtual(t, func(t *testing.T) {
		w := newTown(t)
		app := web
		app.Limits = balance.Limits{Soft: 1, Hard: 1}
		app.Min = 4
		var most, bounces atomic.Int64
		handler := func(m balance.Machine) http.Handler {
			var in atomic.Int64
			return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if n := in.Add(1); n > most.Load() {
					most.Store(n)
				}
				defer in.Add(-1)
				time.Sleep(200 * time.Millisecond)
			})
		}
		for _, id := range []balance.NodeID{"w1", "w2"} {
			w.join(id, "nrt", RoleWorker, []App{{App: app, Machines: 2}}, nil).driver.handle = handler
		}
		var es []*member
		for _, id := range []balance.NodeID{"e1", "e2"} {
			es = append(es, w.join(id, "nrt", RoleEdge, []App{{App: app}}, func(c *Config) {
				c.Transport.Trace.Event = func(e backhaul.Event) {
					if e.Kind == backhaul.EventBounce {
						bounces.Add(1)
					}
				}
			}))
		}
		time.Sleep(5 * time.Second)
		l := newLoad()
		l.run(t, 60*time.Millisecond, func() []*member { return es })
		time.Sleep(20 * time.Second)
		l.end(t)
		if n := most.Load(); n != 1 {
			t.Errorf("%d requests at once at a machine that takes one", n)
		}
		if per := float64(bounces.Load()) / float64(l.sent.Load()); per > 0.1 {
			t.Errorf("%.2f bounces a request", per)
		}
		w.close()
	})
}

// A node that is edge and worker serves with its own machines and with others'.
func TestNodesThatAreBoth(t *testing.T) {
	nettest.Virtual(t, func(t *testing.T) {
		w := newTown(t)
		a := w.join("a", "nrt", RoleBoth, []App{{App: web, Machines: 1}}, nil)
		b := w.join("b", "hkg", RoleBoth, []App{{App: web}}, nil)
		time.Sleep(3 * time.Second)
		for _, m := range []*member{b, a} {
			if status, body := m.get("http://web/"); status != 200 || body != "web-a-1 says /" {
				t.Errorf("%s: %d %q", m.id, status, body)
			}
		}
		if status := b.statusJSON(); !strings.Contains(
			status, `"id":"a","region":"nrt","role":"edge+worker"`,
		) {
			t.Errorf("the page does not know the other node: %s", status)
		}
		w.close()
	})
}

// An edge that is cut off has stale views: the machine that it knows has been stopped, and another
// one was started. The refusal names that one, and the request goes there.
func TestARefusalNamesWhoIsReady(t *testing.T) {
	nettest.Virtual(t, func(t *testing.T) {
		w := newTown(t)
		app := web
		app.Autostart, app.Autostop = true, balance.AutostopOff
		w1 := w.join("w1", "nrt", RoleWorker, []App{{App: app, Machines: 1}}, nil)
		w2 := w.join("w2", "nrt", RoleWorker, []App{{App: app, Machines: 1}}, nil)
		e1, e2 := w.join("e1", "nrt", RoleEdge, []App{{App: app}}, nil), w.join("e2", "nrt", RoleEdge, []App{{App: app}}, nil)
		time.Sleep(5 * time.Second)
		_, body := e1.get("http://web/")
		first, second := w1, w2
		if strings.HasPrefix(body, "web-w2") {
			first, second = w2, w1
		}
		time.Sleep(3 * time.Second)
		w.memory.Cut("e1")
		of := func(m *member) balance.Machine {
			return balance.Machine{
				App: "web", ID: balance.MachineID("web-" + string(m.id) + "-1"), Owner: m.id,
			}
		}
		if a, err := e2.edge.owners.Start(t.Context(), of(second)); err != nil ||
			a != balance.StartAccepted {
			t.Fatal(a, err)
		}
		time.Sleep(3 * time.Second)
		if err := e2.Stop(t.Context(), of(first), downscale.Order{Reason: "test", Drain: time.Second}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		starts := len(first.driver.Calls())
		if status, body := e1.get("http://web/"); status != 200 ||
			!strings.HasPrefix(body, "web-"+string(second.id)) {
			t.Errorf("%d %q", status, body)
		}
		time.Sleep(time.Second)
		if n := len(first.driver.Calls()); n != starts {
			t.Errorf("another one was started although one is ready: %v", first.driver.Calls())
		}
		w.close()
	})
}
