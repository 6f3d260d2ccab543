package backhaul

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
)

// roleEnv makes the test binary an app or a load generator, so that benchmarks measure the CPU of the proxies alone.
const roleEnv = "BACKHAUL_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "app":
		runApp()
	case "load":
		runLoad(os.Args[1], os.Args[2], os.Args[3], os.Args[4:])
	default:
		flag.Parse()
		// Tests that are parallel wait most of the time: for timers of the kernel and of clients.
		flag.Set("test.parallel", "16") //nolint:errcheck // it exists
		os.Exit(m.Run())
	}
}

// runApp serves a kilobyte until its standard input ends, which it does when the parent does.
func runApp() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(l.Addr())
	body := make([]byte, 1024)
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		h := w.Header()
		h.Set("Content-Type", "application/octet-stream")
		h.Set("Content-Length", "1024")
		h.Set("Cache-Control", "no-store")
		w.Write(body)
	}))
	io.Copy(io.Discard, os.Stdin)
}

// What the load generator is told among the headers, and sends as none.
const (
	loadKey  = "key"  // by which it authenticates
	loadBody = "body" // how many bytes it posts; without it, it sends GET
)

// runLoad sends n requests over c connections, with further headers as "Name: value".
func runLoad(url, n, c string, headers []string) {
	total, _ := strconv.Atoi(n)
	conns, _ := strconv.Atoi(c)
	t := &http.Transport{MaxIdleConnsPerHost: conns}
	method, body := http.MethodGet, ""
	headers = slices.DeleteFunc(slices.Clone(headers), func(h string) bool {
		k, v, _ := strings.Cut(h, ": ")
		switch k {
		case loadKey:
			t.DialContext = func(ctx context.Context, _, addr string) (net.Conn, error) { return dialHop(ctx, addr, v) }
		case loadBody:
			size, _ := strconv.Atoi(v)
			method, body = http.MethodPost, strings.Repeat("x", size)
		default:
			return false
		}
		return true
	})
	var wg sync.WaitGroup
	for i := range conns {
		wg.Go(func() {
			for range (total + conns - 1 - i) / conns {
				var r io.Reader
				if body != "" {
					r = strings.NewReader(body)
				}
				req, _ := http.NewRequest(method, url, r)
				req.Header.Set("Accept", "text/html,application/xhtml+xml")
				req.Header.Set("Accept-Language", "en")
				req.Header.Set("Cookie", "session=0123456789abcdef")
				for _, h := range headers {
					k, v, _ := strings.Cut(h, ": ")
					req.Header.Set(k, v)
				}
				resp, err := t.RoundTrip(req)
				if err != nil || resp.StatusCode != 200 && resp.Header.Get(hop.HeaderBounce) == "" {
					fmt.Fprintln(os.Stderr, "load:", resp, err)
					os.Exit(1)
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	}
	wg.Wait()
}

// startApp starts an app in a process of its own and returns its address.
func startApp(tb testing.TB) string {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleEnv+"=app")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { in.Close(); cmd.Wait() })
	var addr string
	if _, err := fmt.Fscan(out, &addr); err != nil {
		tb.Fatal(err)
	}
	return addr
}

func load(tb testing.TB, url string, n, conns int, headers ...string) {
	cmd := exec.Command(os.Args[0], append([]string{url, strconv.Itoa(n), strconv.Itoa(conns)}, headers...)...)
	cmd.Env = append(os.Environ(), roleEnv+"=load")
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("load: %v\n%s", err, out)
	}
}
