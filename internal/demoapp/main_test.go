//go:build linux || darwin

package demoapp

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/autostart/process"
	"github.com/ebbkit/ebb/balance"
)

func TestMain(m *testing.M) {
	if IsChild() {
		shutdownTimeout = patience
		os.Exit(Main())
	}
	os.Exit(m.Run())
}

// patience bounds waits that only a failure makes long.
const patience = time.Minute

// child is the app as a real process under the real driver.
type child struct {
	t      *testing.T
	driver *process.Driver
	row    balance.Machine
	exits  chan machine.Exit
}

// start starts the app with a boot of this length and waits until it listens.
func start(t *testing.T, boot time.Duration) *child {
	t.Helper()
	driver, err := process.New(process.Config{Argv: []string{os.Args[0]}, Env: Env(boot), Output: os.Stderr, StopTimeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = driver.Close() })
	m := &child{
		t, driver, balance.Machine{ID: "nrt-1", App: "demo", Region: "nrt", Epoch: 4},
		make(chan machine.Exit, 1),
	}
	booting, err := driver.Start(t.Context(), m.row)
	if err != nil {
		t.Fatal(err)
	}
	m.row.Addr = booting.Addr
	go func() { _ = driver.Watch(t.Context(), func(e machine.Exit) { m.exits <- e }) }()
	return m
}

// get asks until the app answers.
func (m *child) get(path string) *http.Response {
	m.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		r, err := http.NewRequest("GET", "http://"+m.row.Addr+path, nil)
		if err != nil {
			m.t.Fatal(err)
		}
		r.Header.Set("Accept", "application/json")
		answer, err := http.DefaultTransport.RoundTrip(r)
		if err == nil {
			return answer
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("no answer within %v: %v", patience, err)
		}
		select {
		case e := <-m.exits:
			m.t.Fatalf("the app ended: %+v", e)
		case <-time.After(time.Millisecond):
		}
	}
}

// exit waits for the end of the app.
func (m *child) exit() machine.Exit {
	m.t.Helper()
	select {
	case e := <-m.exits:
		return e
	case <-time.After(patience):
		m.t.Fatalf("no exit within %v", patience)
		return machine.Exit{}
	}
}

func TestMainServes(t *testing.T) {
	const boot = 50 * time.Millisecond
	begin := time.Now()
	m := start(t, boot)
	r := m.get("/")
	var got struct {
		Machine, Region string
		Epoch           uint64
	}
	if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	if got.Machine != "nrt-1" || got.Region != "nrt" || got.Epoch != 4 {
		t.Errorf("answer %+v, want what the driver was told", got)
	}
	nanos, err := strconv.ParseInt(r.Header.Get("X-Ready-At"), 10, 64)
	ready := time.Unix(0, nanos)
	if err != nil || ready.Before(begin.Add(boot)) || ready.After(time.Now()) {
		t.Errorf(
			"X-Ready-At %v, %v, want it after the boot of %v that began at %v", ready, err, boot, begin,
		)
	}
}

func TestMainCrash(t *testing.T) {
	m := start(t, 0)
	_ = m.get("/healthz").Body.Close()
	if _, err := http.DefaultTransport.RoundTrip(mustRequest(t, "http://"+m.row.Addr+"/crash")); err == nil {
		t.Error("/crash was answered, want the connection to end")
	}
	if e := m.exit(); e.Code != exitCrash || e.Signal != "" {
		t.Errorf("exit %+v, want code %d", e, exitCrash)
	}
}

// SIGTERM ends streams, lets other requests end, and ends with status 0.
func TestMainStops(t *testing.T) {
	m := start(t, 0)
	events := m.get("/sse?ms=600000")
	defer events.Body.Close()
	// An upload that is in flight for as long as this test wants it to be.
	body, more := io.Pipe()
	uploaded := make(chan string, 1)
	go func() {
		r, err := http.Post("http://"+m.row.Addr+"/upload", "text/plain", body)
		if err != nil {
			uploaded <- err.Error()
			return
		}
		defer r.Body.Close()
		answer, _ := io.ReadAll(r.Body)
		uploaded <- string(answer)
	}()
	if _, err := io.WriteString(more, "abc"); err != nil {
		t.Fatal(err)
	}
	for inFlight := 0; inFlight < 3; { // the stream, the upload, and the request that asks
		var got struct {
			InFlight int `json:"in_flight"`
		}
		r := m.get("/")
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			t.Fatal(err)
		}
		_ = r.Body.Close()
		inFlight = got.InFlight
	}
	stopped := make(chan error, 1)
	go func() { stopped <- m.driver.Stop(t.Context(), m.row) }()
	if _, err := io.ReadAll(events.Body); err != nil {
		t.Errorf("the stream ended with %v, want a proper end", err)
	}
	_ = more.Close()
	const want = `{"bytes":3,"sha256":"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}` + "\n"
	if got := <-uploaded; got != want {
		t.Errorf("the upload in flight was answered %q, want %q", got, want)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if e := m.exit(); e.Code != 0 {
		t.Errorf("exit %+v, want status 0", e)
	}
}

// A SIGTERM during the boot delay ends it.
func TestMainStopsWhileBooting(t *testing.T) {
	m := start(t, time.Hour)
	if err := m.driver.Stop(t.Context(), m.row); err != nil {
		t.Fatal(err)
	}
	// By the signal itself when it came before the app was ready for it.
	if e := m.exit(); e.Code != 0 && e.Signal != "terminated" {
		t.Errorf("exit %+v, want status 0 or the signal", e)
	}
}

func mustRequest(t *testing.T, url string) *http.Request {
	t.Helper()
	r, err := http.NewRequest("GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
