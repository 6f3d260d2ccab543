package member

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/exchange"
	"github.com/ebbkit/ebb/examples/fleet/internal/app"
	"github.com/ebbkit/ebb/examples/fleet/internal/config"
)

func TestMain(m *testing.M) {
	if app.IsApp() {
		os.Exit(app.Main())
	}
	os.Exit(m.Run())
}

// log keeps the lines that are logged.
type log struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *log) has(what string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.text.String(), what)
}

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestFollowsConfiguration: apps are added, changed and removed while the node runs; a faulty
// configuration changes nothing.
func TestFollowsConfiguration(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	listen, status := free(t), free(t)
	text := fmt.Sprintf(`
node: here-1
region: here
regions: {here: 1ms}
keys: [0123456789abcdef]
listen: %s
status: %s
hop: 127.0.0.1:0
engine: {url: memory://test}
drivers:
  app: {argv: [%q], env: [%q, %q, %q]}
apps:
  web: {driver: app, machines: 1, check: /healthz}
`, listen, status, self, app.Env("", 0, 0)[0], "FLEET_HARD=0", "FLEET_BOOT=0s")
	name := filepath.Join(t.TempDir(), "node.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(text)
	said, again := new(log), make(chan os.Signal, 1)
	memory := exchange.NewMemory(exchange.MemoryConfig{})
	c := Config{
		File: name, Role: config.RoleBoth, Again: again, Logger: slog.New(slog.NewTextHandler(said, nil)),
		Engine: func(_ config.Engine, node string) (exchange.Exchange, func(), error) {
			return memory.Connect(balance.NodeID(node)), func() {}, nil
		},
	}
	ctx, stop := context.WithCancel(t.Context())
	over := make(chan error, 1)
	go func() { over <- Run(ctx, c) }()
	defer func() {
		stop()
		if err := <-over; err != nil {
			t.Errorf("Run: %v, want nil", err)
		}
	}()
	get := func(host string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+listen+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	until := func(what string, good func() bool) {
		t.Helper()
		for begin := time.Now(); !good(); time.Sleep(10 * time.Millisecond) {
			if time.Since(begin) > 30*time.Second {
				t.Fatalf("%s does not come: %s", what, said.text.String())
			}
		}
	}
	until("the node", func() bool { return get("web") == http.StatusOK })

	more := text + "  more: {driver: app, machines: 1, check: /healthz}\nhosts: {www.example.org: more}\n"
	write(more)
	again <- syscall.SIGHUP
	until("the second app", func() bool { return get("www.example.org") == http.StatusOK })

	write(strings.Replace(more, "machines: 1", "machinse: 2", 1))
	again <- syscall.SIGHUP
	until("the refusal", func() bool { return said.has(`did you mean \"machines\"?`) })
	if got := get("web"); got != http.StatusOK {
		t.Errorf("after a configuration that is wrong: %d, want 200", got)
	}

	write(strings.Replace(text, "  web:", "  more:", 1))
	again <- syscall.SIGHUP
	until("the end of the first app", func() bool { return get("web") == http.StatusNotFound })
	if got := get("more"); got != http.StatusOK {
		t.Errorf("the app that stays: %d, want 200", got)
	}
	write(strings.Replace(text, "region: here", "region: here\ngrace: 9s", 1))
	again <- syscall.SIGHUP
	until("a word on what needs a start", func() bool { return said.has("field=grace") })

	resp, err := http.Get("http://" + status + "/nodes.json")
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("/nodes.json: %v, %v", resp, err)
	}
	resp.Body.Close()
}
