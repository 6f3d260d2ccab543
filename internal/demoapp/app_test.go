package demoapp

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// ready is when the apps of these tests began to listen.
var ready = time.Unix(1_700_000_000, 123_456_789)

// newServer returns an app behind a real listener, and its address as a URL.
func newServer(t *testing.T, c Config) (*App, string) {
	t.Helper()
	app := New(c)
	server := httptest.NewServer(app)
	t.Cleanup(server.Close)
	t.Cleanup(app.Close) // before the server, which waits for its requests
	return app, server.URL
}

func config() Config {
	return Config{Machine: "nrt-1", Region: "nrt", Epoch: 7, ReadyAt: ready}
}

// get answers a request in memory.
func get(t *testing.T, h http.Handler, method, target string, body io.Reader, header ...string) *http.Response {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, target, body)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func readAll(t *testing.T, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestIndex(t *testing.T) {
	app := New(config())
	type answer struct {
		Machine, Region string
		Epoch           uint64
		InFlight        int64 `json:"in_flight"`
	}
	for _, test := range []struct {
		name   string
		header []string
		want   answer
	}{
		{"as started", nil, answer{"nrt-1", "nrt", 7, 1}},
		{"resumed", []string{"Ebb-Epoch", "9"}, answer{"nrt-1", "nrt", 9, 1}},
		{"an epoch that is none", []string{"Ebb-Epoch", "nine"}, answer{"nrt-1", "nrt", 7, 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := get(t, app, "GET", "/", nil, append(test.header, "Accept", "application/json")...)
			var got answer
			if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
			if got, want := r.Header.Get("X-Epoch"), strconv.FormatUint(test.want.Epoch, 10); got != want {
				t.Errorf("X-Epoch %q, want %q", got, want)
			}
			if got, want := r.Header.Get("X-Ready-At"), "1700000000123456789"; got != want {
				t.Errorf("X-Ready-At %q, want %q", got, want)
			}
		})
	}
	r := get(t, app, "GET", "/", nil)
	if got, want := readAll(t, r), "Hello from machine nrt-1 in region nrt, epoch 7, with 1 in flight.\n"; !strings.HasPrefix(got, want) {
		t.Errorf("text %q, want it to begin with %q", got, want)
	}
}

func TestAnswers(t *testing.T) {
	app := New(config())
	for _, test := range []struct {
		target string
		status int
		text   string
	}{
		{"/healthz", 200, "ok\n"},
		{"/slow?ms=1", 200, "machine nrt-1 waited for 1ms\n"},
		{"/slow?ms=0", 200, "machine nrt-1 waited for 0s\n"},
		{"/slow?ms=-1", 400, `ms="-1": want a number from 0 to 600000`},
		{"/slow?ms=soon", 400, `ms="soon": want`},
		{"/burn?ms=1", 200, "machine nrt-1 computed "},
		{"/burn?ms=600001", 400, `ms="600001": want`},
		{"/stream?n=3&ms=0", 200, "1 from nrt-1\n2 from nrt-1\n3 from nrt-1\n"},
		{"/stream?n=0", 200, ""},
		{"/stream?n=x", 400, `n="x": want a number from 0 to 1000000`},
		{"/sse?n=2&ms=0", 200, "id: 1\ndata: {\"machine\":\"nrt-1\",\"epoch\":7,\"n\":1}\n\nid: 2\n"},
		{"/sse?n=-1", 400, `n="-1": want`},
		{"/crash", 501, "this app cannot crash\n"},
		{"/nothing", 404, "machine nrt-1 has no /nothing\n"},
		{"/ws", 426, "this is a WebSocket"},
	} {
		r := get(t, app, "GET", test.target, nil)
		if got := readAll(t, r); r.StatusCode != test.status || !strings.HasPrefix(got, test.text) {
			t.Errorf("%s: %d %q, want %d %q", test.target, r.StatusCode, got, test.status, test.text)
		}
	}
	if n := app.inFlight.Load(); n != 0 {
		t.Errorf("%d in flight after the last request, want 0", n)
	}
}

func TestUpload(t *testing.T) {
	body := strings.Repeat("0123456789", 100_000)
	sum := sha256.Sum256([]byte(body))
	r := get(t, New(config()), "POST", "/upload", strings.NewReader(body))
	want := `{"bytes":1000000,"sha256":"` + hex.EncodeToString(sum[:]) + "\"}\n"
	if got := readAll(t, r); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestCrash(t *testing.T) {
	crashed := false
	c := config()
	c.Crash = func() { crashed = true }
	get(t, New(c), "GET", "/crash", nil)
	if !crashed {
		t.Error("/crash did not crash")
	}
}

// A stream reaches the client line by line: the second line is far away when the first is read.
func TestStreamsAreFlushed(t *testing.T) {
	for path, first := range map[string]string{
		"/stream?n=2&ms=600000": "1 from nrt-1\n",
		"/sse?n=2&ms=600000":    "id: 1\n",
	} {
		_, url := newServer(t, config())
		r, err := http.Get(url + path)
		if err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(r.Body).ReadString('\n')
		if err != nil || line != first {
			t.Errorf("%s: first line %q, %v, want %q", path, line, err, first)
		}
		_ = r.Body.Close()
	}
}

// Close ends streams properly; requests of other kinds are not its business.
func TestCloseEndsStreams(t *testing.T) {
	app, url := newServer(t, config())
	r, err := http.Get(url + "/sse?ms=600000")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	app.Close()
	if got, err := io.ReadAll(r.Body); err != nil || !strings.HasPrefix(string(got), "id: 1\n") {
		t.Errorf("the stream ended with %q, %v, want a first event and a proper end", got, err)
	}
}

func TestEnvironment(t *testing.T) {
	for _, test := range []struct {
		name string
		env  map[string]string
		boot time.Duration
		want Config
		err  string
	}{
		{name: "all", env: map[string]string{"PORT": "8080", "MACHINE": "m", "REGION": "r", "EPOCH": "3", "DEMOAPP_BOOT": "8s"},
			boot: 8 * time.Second, want: Config{Machine: "m", Region: "r", Epoch: 3}},
		{name: "only a port", env: map[string]string{"PORT": "8080"}},
		{name: "no port", env: nil, err: "PORT is not set"},
		{name: "port 0", env: map[string]string{"PORT": "0"}, err: `PORT="0": want a number from 1 to 65535`},
		{name: "large port", env: map[string]string{"PORT": "65536"}, err: `PORT="65536": want`},
		{name: "epoch", env: map[string]string{"PORT": "1", "EPOCH": "-1"}, err: `EPOCH="-1": want`},
		{name: "boot", env: map[string]string{"PORT": "1", "DEMOAPP_BOOT": "8"}, err: `DEMOAPP_BOOT="8": want a duration`},
		{name: "negative boot", env: map[string]string{"PORT": "1", "DEMOAPP_BOOT": "-8s"}, err: `DEMOAPP_BOOT="-8s": want`},
	} {
		t.Run(test.name, func(t *testing.T) {
			boot, got, err := fromEnvironment(func(name string) string { return test.env[name] })
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("error %v, want %q", err, test.err)
				}
				return
			}
			if err != nil || boot != test.boot || got.Machine != test.want.Machine || got.Region != test.want.Region || got.Epoch != test.want.Epoch {
				t.Errorf("got %v, %+v, %v, want %v, %+v", boot, got, err, test.boot, test.want)
			}
		})
	}
	if diff := cmp.Diff([]string{"DEMOAPP=1", "DEMOAPP_BOOT=1m30s"}, Env(90*time.Second)); diff != "" {
		t.Error(diff)
	}
}
