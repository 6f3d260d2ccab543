package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test binary is three programs: the tests, the example, and the example's app.
const (
	beExample = "EMBEDDED_EXAMPLE"
	appFails  = "EMBEDDED_APP_FAILS"
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv("MACHINE") != "" && os.Getenv(appFails) != "":
		fmt.Fprintln(os.Stderr, "no configuration")
		os.Exit(3)
	case os.Getenv("MACHINE") != "":
		http.ListenAndServe(
			"127.0.0.1:"+os.Getenv("PORT"),
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header()["Content-Type"] = nil
				fmt.Fprint(w, "hello from ", os.Getenv("MACHINE"), " for ", r.RequestURI)
			}),
		)
		os.Exit(1)
	case os.Getenv(beExample) != "":
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// example runs the program until it is stopped.
type example struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  bytes.Buffer
	addr string
	done chan error
}

func start(t *testing.T, env ...string) *example {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &example{t: t, addr: l.Addr().String(), done: make(chan error, 1)}
	l.Close()
	e.cmd = exec.Command(os.Args[0], strconv.Quote(os.Args[0]))
	e.cmd.Env = append(append(os.Environ(), beExample+"=1", "LISTEN="+e.addr), env...)
	e.cmd.Stdout, e.cmd.Stderr = &e.out, &e.out
	if err := e.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { e.done <- e.cmd.Wait() }()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); <-poll.C {
		if c, err := net.Dial("tcp", e.addr); err == nil {
			c.Close()
			return e
		}
	}
	t.Fatalf("the example does not listen: %s", e.out.String())
	return nil
}

func (e *example) get(target string) (*http.Response, string) {
	e.t.Helper()
	resp, err := http.Get("http://" + e.addr + target)
	if err != nil {
		e.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		e.t.Fatal(err)
	}
	return resp, string(body)
}

// end stops the example as an operator does, and returns its output.
func (e *example) end() string {
	e.t.Helper()
	http.DefaultClient.CloseIdleConnections() // the program waits some seconds for idle connections
	e.cmd.Process.Signal(syscall.SIGTERM)
	if err := <-e.done; err != nil {
		e.t.Errorf("after SIGTERM: %v: %s", err, e.out.String())
	}
	return e.out.String()
}

// The program starts its app for the first request, passes requests and answers on unchanged, and
// ends when it is told to.
func TestTheProgramServes(t *testing.T) {
	e := start(t)
	for _, target := range []string{"/", "/a%2Fb?x=1;y=%zz"} {
		if resp, body := e.get(target); resp.StatusCode != 200 ||
			body != "hello from web-1 for "+target ||
			resp.Header["Content-Type"] != nil {
			t.Errorf("%s: %d %q %v", target, resp.StatusCode, body, resp.Header)
		}
	}
	if out := e.end(); out != "http: Server closed\n" {
		t.Errorf("it printed %q", out)
	}
}

// If the app cannot be started, the client gets a clear error with Retry-After that names nothing
// internal, and the log says why.
func TestTheProgramSaysWhatItCannotServe(t *testing.T) {
	e := start(t, appFails+"=1")
	resp, body := e.get("/")
	if after, _ := strconv.Atoi(resp.Header.Get("Retry-After")); resp.StatusCode != 503 || after < 1 {
		t.Errorf("%d, Retry-After %q", resp.StatusCode, resp.Header.Get("Retry-After"))
	}
	if !strings.HasPrefix(body, "Service Unavailable") || strings.Contains(body, "web-1") ||
		strings.Contains(body, "configuration") {
		t.Errorf("the client reads %q", body)
	}
	out := e.end()
	if !strings.Contains(out, "web/web-1: it ended while starting: exit status 3") ||
		!strings.Contains(out, ": no configuration\n") ||
		!strings.HasSuffix(out, "http: Server closed\n") {
		t.Errorf("it printed %q", out)
	}
}
