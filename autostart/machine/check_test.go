package machine

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/ebbkit/ebb/autostart/machine/internal/health"
	"github.com/ebbkit/ebb/balance"
)

func TestProberOverSockets(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/good", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc(
		"/moved",
		func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/bad", http.StatusFound) },
	)
	mux.HandleFunc(
		"/bad",
		func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", http.StatusServiceUnavailable) },
	)
	server := httptest.NewServer(mux)
	defer server.Close()
	addr := server.Listener.Addr().String()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	l.Close()
	for _, tc := range []struct {
		name    string
		check   Check
		addr    string
		ok      bool
		unready bool
	}{
		{"TCP", Check{}, addr, true, false},
		{"TCP, nobody there", Check{}, closed, false, false},
		{"a good path", Check{Path: "/good"}, addr, true, false},
		{"a redirect is an answer", Check{Path: "/moved"}, addr, true, false},
		{"a bad path", Check{Path: "/bad"}, addr, false, true},
		{"a path, nobody there", Check{Path: "/good"}, closed, false, false},
		{"a func that panics", Check{Func: func(context.Context, balance.Machine) error { panic("bug") }}, addr, false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := tc.check.withDefaults()
			if err != nil {
				t.Fatal(err)
			}
			c.Timeout = time.Minute // the machine under test may be slow
			err = newProber(c).look(t.Context(), balance.Machine{Addr: tc.addr})
			if _, got := errors.AsType[unready](err); (err == nil) != tc.ok || got != tc.unready {
				t.Errorf("%v (unready: %v), want good: %v, unready: %v", err, got, tc.ok, tc.unready)
			}
		})
	}
	// A machine that begins to listen is found.
	p := newProber(Check{Timeout: time.Minute})
	found := make(chan bool)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go func() {
		_, ready := p.await(ctx, balance.Machine{Addr: closed}, time.Now(), health.Window{}, nil)
		found <- ready
	}()
	l, err = net.Listen("tcp", closed)
	if err != nil {
		t.Skipf("the port has been taken meanwhile: %v", err)
	}
	defer l.Close()
	if !<-found {
		t.Error("not found")
	}
}

// checkEnv makes this binary a check.
const checkEnv = "AUTOSTART_CHECK"

func TestMain(m *testing.M) {
	if os.Getenv(checkEnv) != "" && os.Getenv("EBB_ADDR") != "" {
		os.Stdout.WriteString(strings.Repeat("x", 1000) + "machine " + os.Getenv("EBB_MACHINE") + " of " + os.Getenv("EBB_APP") + " at " + os.Getenv("EBB_ADDR") + "\n")
		if os.Getenv("EBB_ADDR") != "good:1" {
			os.Exit(3)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestExecCheck(t *testing.T) {
	t.Setenv(checkEnv, "1")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := newProber(Check{Command: []string{self, "-v"}, Timeout: time.Minute})
	if err := p.look(t.Context(), balance.Machine{ID: "m", App: "web", Addr: "good:1"}); err != nil {
		t.Error(err)
	}
	err = p.look(t.Context(), balance.Machine{ID: "m", App: "web", Addr: "bad:1"})
	if _, answered := errors.AsType[unready](err); !answered ||
		!strings.HasSuffix(err.Error(), "machine m of web at bad:1") ||
		len(err.Error()) > 600 {
		t.Errorf("%v", err)
	}
	p.check.Command = []string{"no such program"}
	if err := p.look(t.Context(), balance.Machine{}); err == nil {
		t.Error("what does not exist passes")
	}
	if runtime.GOOS == "linux" { // one that blocks costs its timeout and no more
		p.check = Check{
			Command: []string{"/bin/sh", "-c", "exec sleep 1000"}, Timeout: 10 * time.Millisecond,
		}
		if err := p.look(t.Context(), balance.Machine{}); err == nil {
			t.Error("what blocks passes")
		}
	}
	for _, c := range []Check{{Command: []string{""}}, {Command: []string{"x"}, Path: "/"}} {
		if _, err := c.withDefaults(); err == nil || !strings.Contains(err.Error(), "Check.Command") {
			t.Errorf("%v", err)
		}
	}
}
