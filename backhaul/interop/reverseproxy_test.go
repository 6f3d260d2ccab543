package interop

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// The tests that the standard library has for its reverse proxy, of the Go version that runs this, with our Transport as the
// proxy's default: in one process, and over the hop. They and the proxy are copied from GOROOT into a module of their own.
func TestTheStandardLibrarysReverseProxyTests(t *testing.T) {
	source := filepath.Join(runtime.GOROOT(), "src/net/http")
	if _, err := os.Stat(filepath.Join(source, "httputil/reverseproxy_test.go")); err != nil {
		t.Skip("this Go has no source: ", err)
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	read := func(path string) string {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	own := func(name string) string {
		return strings.NewReplacer(
			`"net/http/internal/ascii"`, `"reverseproxy/ascii"`,
			`"internal/godebug"`, `"reverseproxy/godebug"`,
		).Replace(read(filepath.Join(source, name)))
	}
	const byDefault = "transport = http.DefaultTransport"
	proxy := own("httputil/reverseproxy.go")
	if n := strings.Count(proxy, byDefault); n != 1 {
		t.Fatalf("this Go's reverse proxy has %d places with %q, want 1: adapt this test", n, byDefault)
	}
	put("reverseproxy.go", strings.Replace(proxy, byDefault, "transport = defaultTransport", 1))
	// The standard library ends the upgraded connection of a request that was cancelled as if all was
	// well. Ours is reset: the client must not take what it has for everything.
	const clean = "\t\tcase err == io.EOF:\n\t\t\treturn\n\n\t\tcase err != nil:\n\t\t\tt.Fatalf(\"Unexpected"
	tests := own("httputil/reverseproxy_test.go")
	if n := strings.Count(tests, clean); n != 1 {
		t.Fatalf("this Go's tests of its reverse proxy have %d places with %q, want 1: adapt this test",
			n, clean)
	}
	put("reverseproxy_test.go", strings.Replace(
		tests, clean,
		strings.Replace(clean, "err == io.EOF",
			`err != nil && strings.Contains(err.Error(), "connection reset by peer")`, 1),
		1,
	))
	put("ascii/print.go", own("internal/ascii/print.go"))
	put("godebug/godebug.go", noSettings)
	put("ours.go", ourTransport)
	put("endless_test.go", endless)
	put("go.mod", strings.Replace(strings.Replace(read("go.mod"), "module github.com/ebbkit/ebb/backhaul/interop", "module reverseproxy", 1),
		"=> ../..", "=> "+root, 1))
	put("go.sum", read("go.sum"))

	test := filepath.Join(dir, "reverseproxy.test")
	build := exec.Command("go", "test", "-mod=mod", "-c", "-o", test)
	build.Dir = dir
	build.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, form := range []string{"one process", "hop"} {
		t.Run(form, func(t *testing.T) {
			var out bytes.Buffer
			run := exec.CommandContext(t.Context(), test, "-test.v", "-test.run", "Proxy|Unannounced|Trailer|Upgrade|Join|Clone|SingleHost")
			run.Dir, run.Stdout, run.Stderr = dir, &out, &out
			run.Env = append(os.Environ(), "FORM="+form)
			err := run.Run()
			passed := strings.Count(out.String(), "--- PASS: Test")
			t.Logf("%d passed", passed)
			if err != nil || passed < 30 {
				t.Errorf("%v: %d tests passed\n%s", err, passed, failures(out.String()))
			}
		})
	}
}

// failures leaves what a verbose run says of tests that failed.
func failures(out string) string {
	var b strings.Builder
	for line := range strings.Lines(out) {
		if !strings.Contains(line, "--- PASS") && !strings.Contains(line, "=== ") {
			fmt.Fprint(&b, line)
		}
	}
	return b.String()
}

// noSettings stands in for a package of the standard library's own.
const noSettings = `package godebug

type Setting struct{}

func New(string) *Setting            { return &Setting{} }
func (*Setting) Value() string       { return "" }
func (*Setting) IncNonDefault()      {}
`

// endless is a reader that the tests take from another file of their package.
const endless = `package httputil

type neverEnding byte

func (b neverEnding) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(b)
	}
	return len(p), nil
}
`

// ourTransport finds, or makes, a machine for each address that a test's proxy wants to reach.
const ourTransport = `package httputil

import (
	"context"
	"net"
	"net/http"
	"os"
	"sync"

	"github.com/ebbkit/ebb/backhaul"
	"github.com/ebbkit/ebb/balance"
)

var defaultTransport http.RoundTripper = newOurs()

type ours struct {
	transport    *backhaul.Transport
	edge, worker *balance.Fleet
	watch        *balance.Watcher
	mu           sync.Mutex
	known        map[string]bool
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newOurs() *ours {
	o := &ours{known: map[string]bool{}}
	o.edge = must(balance.NewFleet(balance.FleetConfig{Node: "edge", Region: "here"}))
	o.worker = o.edge
	c := backhaul.Config{Keys: []string{"of-this-test"}}
	if os.Getenv("FORM") == "hop" {
		o.worker = must(balance.NewFleet(balance.FleetConfig{Node: "worker", Region: "here"}))
		o.watch = o.worker.Watch()
		handler := must(backhaul.NewHandler(o.worker, backhaul.HandlerConfig{Keys: []string{"of-this-test"}}))
		server := must(backhaul.NewServer(handler, backhaul.ServerConfig{}))
		l := must(net.Listen("tcp", "127.0.0.1:0"))
		go server.Serve(l)
		c.Dial = func(ctx context.Context, _ balance.NodeID) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", l.Addr().String())
		}
	}
	b := must(balance.New(o.edge, balance.Config{}))
	o.transport = must(backhaul.NewTransport(backhaul.NoWait(b), c))
	return o
}

func (o *ours) RoundTrip(r *http.Request) (*http.Response, error) {
	o.host(r.URL.Host)
	return o.transport.RoundTrip(r)
}

func (o *ours) host(addr string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.known[addr] || addr == "" {
		return
	}
	o.known[addr] = true
	if err := o.worker.Apply(balance.PutApp{App: balance.App{ID: balance.AppID(addr)}}); err != nil {
		panic(err)
	}
	g := must(o.worker.Host(balance.Machine{ID: "m", App: balance.AppID(addr), Region: "here", Addr: addr}))
	token, _ := g.Start(0)
	g.Ready(token)
	if o.watch != nil {
		if err := o.edge.Apply(o.watch.Take()...); err != nil {
			panic(err)
		}
	}
}
`
