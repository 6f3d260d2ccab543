package interop

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/summerwind/h2spec/config"
	"github.com/summerwind/h2spec/generic"
	"github.com/summerwind/h2spec/hpack"
	"github.com/summerwind/h2spec/http2"
	"github.com/summerwind/h2spec/spec"
)

// specEnv makes the test binary h2spec: it writes to standard output and exits when it is unhappy.
const specEnv = "INTEROP_H2SPEC"

func TestMain(m *testing.M) {
	if connectMain() {
		return
	}
	if addr := os.Getenv(specEnv); addr != "" {
		runSpec(addr)
		return
	}
	os.Exit(m.Run())
}

func runSpec(addr string) {
	host, port, _ := net.SplitHostPort(addr)
	n, _ := strconv.Atoi(port)
	c := &config.Config{Host: host, Port: n, Path: "/", Timeout: 2 * time.Second, MaxHeaderLen: 4000}
	passed := 0
	for _, g := range []*spec.TestGroup{generic.Spec(), http2.Spec(), hpack.Spec()} {
		g.Test(c)
		report(g)
		passed += g.PassedCount
	}
	fmt.Println("\nPASSED", passed)
}

func report(g *spec.TestGroup) {
	for i, tc := range g.Tests {
		if tc.Result != nil && tc.Result.Failed {
			fmt.Printf("\nFAILED %s/%d %s\n", g.ID(), i+1, tc.Desc)
		}
	}
	for _, sub := range g.Groups {
		report(sub)
	}
}

// spec runs h2spec against a server and returns what failed.
func h2spec(t *testing.T, addr string) (failed []string, passed int) {
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), specEnv+"="+addr)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("h2spec: %v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if s, ok := strings.CutPrefix(strings.TrimSpace(line), "FAILED "); ok {
			failed = append(failed, s)
		}
		if s, ok := strings.CutPrefix(strings.TrimSpace(line), "PASSED "); ok {
			passed, _ = strconv.Atoi(s)
		}
	}
	sort.Strings(failed)
	return failed, passed
}

// The edge passes what a bare net/http server passes: its front is one, and the proxy behind spoils nothing.
func TestH2spec(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds for each timeout that h2spec waits for")
	}
	app := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, strings.Repeat("hello ", 100))
	})
	addr := serveHTTP(t, app)
	bare, n := h2spec(t, addr)
	edge, m := h2spec(t, path(t, addr, true))
	t.Logf("bare net/http: %d passed, failed: %q", n, bare)
	t.Logf("edge: %d passed, failed: %q", m, edge)
	known := map[string]bool{}
	for _, s := range bare {
		known[s] = true
	}
	for _, s := range edge {
		if !known[s] {
			t.Errorf("fails at the edge and not at a bare server: %s", s)
		}
	}
	if m == 0 {
		t.Error("nothing passed: h2spec did not run")
	}
}
