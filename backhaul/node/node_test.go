package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale"
	"github.com/ebbkit/ebb/internal/nettest"
	"github.com/ebbkit/ebb/internal/status"
)

// An app sleeps until a request comes, is started, serves, and is stopped again.
func TestAnAppWakesAndSleeps(t *testing.T) {
	nettest.Virtual(t, func(t *testing.T) {
		d := newShed(time.Second, nil)
		n := run(t, d, nil)
		synctest.Wait()
		if len(d.Calls()) != 0 {
			t.Errorf("before the first request: %v", d.Calls())
		}
		if status, body := n.get("http://web/a"); status != 200 || !strings.HasSuffix(body, " says /a") {
			t.Errorf("the first request: %d %q", status, body)
		}
		time.Sleep(3 * time.Minute)
		told := d.Calls()
		if len(told) != 2 || !strings.HasPrefix(told[0], "start web/") ||
			told[1] != "stop"+told[0][len("start"):] {
			t.Errorf("a start and, after the keep-alive, a stop are due: %v", told)
		}
		if status, _ := n.get("http://web/b"); status != 200 {
			t.Errorf("the request after sleep: %d", status)
		}
		n.end()
	})
}

// Apps are found by their hosts and by their IDs, each is run by its own driver, and an unknown app
// is 404.
func TestAppsByHost(t *testing.T) {
	nettest.Virtual(t, func(t *testing.T) {
		d, other := newShed(time.Second, nil), newShed(time.Second, nil)
		blog := web
		blog.ID = "blog"
		n := run(t, d, func(c *Config) {
			c.Apps = append(
				c.Apps,
				App{
					App: blog, Machines: 1, Hosts: []string{"blog.example"}, Driver: other,
					Check: machine.Check{Func: other.Check},
				},
			)
			c.Transport.DialMachine = func(ctx context.Context, m balance.Machine) (c net.Conn, err error) {
				if m.App == "blog" {
					return other.dial(ctx, m)
				}
				return d.dial(ctx, m)
			}
		})
		for url, want := range map[string]string{
			"http://web/": "web-here-", "http://blog.example/": "blog-here-1", "http://BLOG:80/": "blog-here-1",
		} {
			if status, body := n.get(url); status != 200 || !strings.HasPrefix(body, want) {
				t.Errorf("%s: %d %q", url, status, body)
			}
		}
		if status, _ := n.get("http://nobody/"); status != 404 {
			t.Errorf("an unknown app: %d", status)
		}
		n.end()
		if !slices.Contains(other.Calls(), "start blog/blog-here-1@1") ||
			slices.Contains(d.Calls(), "start blog/blog-here-1@1") {
			t.Errorf("each app has its driver: %v, %v", d.Calls(), other.Calls())
		}
	})
}

// A shutdown is in order: requests in flight are answered, nothing more is started, and machines
// are stopped last.
func TestShutdownLosesNothing(t *testing.T) {
	nettest.Virtual(t, func(t *testing.T) {
		var d *shed
		d = newShed(time.Second, func(m balance.Machine) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				time.Sleep(8 * time.Second)
				fmt.Fprint(w, "slow ", slices.Contains(d.Calls(), "stop "+m.Key().String()+"@1"))
			})
		})
		n := run(t, d, nil)
		var clients sync.WaitGroup
		for range 5 {
			clients.Go(func() {
				if status, body := n.get("http://web/"); status != 200 || body != "slow false" {
					t.Errorf("a request that was in flight: %d %q", status, body)
				}
			})
		}
		time.Sleep(2 * time.Second)
		n.end()
		clients.Wait()
		if told := d.Calls(); !d.wasClosed() || !strings.HasPrefix(told[len(told)-1], "stop ") {
			t.Errorf("machines are stopped last: %v", told)
		}
		if err := n.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "called before") {
			t.Errorf("a second Run: %v", err)
		}
		if err := n.Shutdown(t.Context()); err != nil {
			t.Errorf("a second Shutdown: %v", err)
		}
	})
}

// Requests that do not end are cut off when the time is up, and the machines are still stopped.
func TestShutdownHurries(t *testing.T) {
	nettest.Virtual(t, func(t *testing.T) {
		d := newShed(time.Second, func(balance.Machine) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.(http.Flusher).Flush()
				<-r.Context().Done()
			})
		})
		n := run(t, d, nil)
		resp, err := n.client.Get("http://web/")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		began := time.Now()
		if err := n.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took < 3*time.Second || took > 15*time.Second {
			t.Errorf("it took %v", took)
		}
		if err := <-n.ended; err != nil {
			t.Errorf("Run returned %v", err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		n.client.CloseIdleConnections()
		if told := d.Calls(); !d.wasClosed() || !strings.HasPrefix(told[len(told)-1], "stop ") {
			t.Errorf("%v", told)
		}
	})
}

// A node that is shut down before it runs leaves nothing behind.
func TestShutdownBeforeRun(t *testing.T) {
	nettest.Virtual(t, func(t *testing.T) {
		d := newShed(time.Second, nil)
		n, err := New(
			Config{Apps: []App{{App: web, Machines: 1}}, Driver: d, Listener: nettest.NewPipes()},
		)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if err := n.Run(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A configuration error names the field and a remedy.
func TestConfigIsChecked(t *testing.T) {
	d := newShed(0, nil)
	for want, c := range map[string]Config{
		`app "web" has 1 machines here and no driver: set Config.Driver`: {Apps: []App{{App: web, Machines: 1}}},
		`app "web": Machines -1: want 0`:                                 {Apps: []App{{App: web, Machines: -1}}, Driver: d},
		`names app "web" twice`:                                          {Apps: []App{{App: web}, {App: web}}},
		`both have the host "a.example": leave it to one`:                {Apps: []App{{App: web, Hosts: []string{"a.example"}}, {App: balance.App{ID: "b"}, Hosts: []string{"a.example"}}}},
		`Config.Downscale.Views is the node's own to set`:                {Downscale: downscale.Config{Views: everybody{}}},
		`app "web": machine: Check.Path "x": want a path`:                {Apps: []App{{App: web, Check: machine.Check{Path: "x"}}}},
		`balance: app without an ID`:                                     {Apps: []App{{}}},
		`autostart: Config.MaxParkedTenant -1: want 0`:                   {Autostart: autostart.Config{MaxParkedTenant: -1}},
	} {
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// everybody is a Views that a user sets, which the node refuses.
type everybody struct{ downscale.Views }

// A part that fails ends the node, and Run says which.
func TestAPartThatFailsEndsTheNode(t *testing.T) {
	nettest.Virtual(t, func(t *testing.T) {
		d := newShed(time.Second, nil)
		n := run(t, d, func(c *Config) { c.Listener = broken{} })
		if err := <-n.ended; err == nil || !strings.Contains(err.Error(), "node: clients: no more") {
			t.Errorf("Run: %v", err)
		}
		if !d.wasClosed() {
			t.Error("its driver has not been told")
		}
	})
}

type broken struct{ net.Listener }

func (broken) Accept() (net.Conn, error) { return nil, errors.New("no more") }
func (broken) Close() error              { return nil }
func (broken) Addr() net.Addr            { return &net.TCPAddr{} }

// The status page shows machines and decisions, and stops a machine that is named by app and ID.
func TestThePage(t *testing.T) {
	nettest.Virtual(t, func(t *testing.T) {
		d := newShed(time.Second, nil)
		var logged strings.Builder
		n := run(t, d, func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&logged, nil)) })
		if status, _ := n.get("http://web/"); status != 200 {
			t.Fatal(status)
		}
		var s struct {
			Requests int
			Machines []struct{ ID, State string }
		}
		if err := json.Unmarshal([]byte(n.statusJSON()), &s); err != nil {
			t.Fatal(err)
		}
		up := slices.IndexFunc(
			s.Machines, func(m struct{ ID, State string }) bool { return m.State == "started" },
		)
		if len(s.Machines) != 2 || up < 0 || s.Requests != 1 {
			t.Fatalf("%+v", s)
		}
		if err := (source{n.Node}).StopMachine(t.Context(), "web/"+s.Machines[up].ID, status.Order{Reason: "test"}); err != nil {
			t.Error(err)
		}
		if told := d.Calls(); len(told) != 2 || told[1] != "stop web/"+s.Machines[up].ID+"@1" {
			t.Errorf("%v", told)
		}
		n.end()
		for _, want := range []string{"msg=start", "msg=started", "msg=stopped", "machine=web-here-"} {
			if !strings.Contains(logged.String(), want) {
				t.Errorf("the log lacks %q: %s", want, logged.String())
			}
		}
	})
}
