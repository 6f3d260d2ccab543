package status

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/internal/eventlog"
	"github.com/ebbkit/ebb/internal/events"
	"github.com/google/go-cmp/cmp"
)

// fake is a source with a fixed state.
type fake struct {
	snapshot Snapshot
	log      *eventlog.Log
}

func (f *fake) Snapshot() Snapshot    { return f.snapshot }
func (f *fake) Events() *eventlog.Log { return f.log }

// pageURL is the address of the page: what Host contains.
const pageURL = "http://127.0.0.1:8081"

func get(h http.Handler, method, target string) *http.Response {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, pageURL+target, nil))
	return w.Result()
}

func body(t *testing.T, res *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func ExampleHandler() {
	src := &fake{log: eventlog.New(0), snapshot: Snapshot{
		Machines: []Machine{
			{
				ID: "nrt-1", App: "web", Region: "nrt", State: "stopped", Health: "unknown", Cordon: "none",
				Soft: 10, Hard: 20,
			},
		},
	}}
	w := httptest.NewRecorder()
	Handler(src).ServeHTTP(w, httptest.NewRequest("GET", "http://127.0.0.1:8081/status.json", nil))
	fmt.Print(w.Body)
	// Output:
	// {"nodes":[],"machines":[{"id":"nrt-1","app":"web","region":"nrt","owner":"","revision":"","state":"stopped","health":"unknown","cordon":"none","epoch":0,"load":0,"soft":10,"hard":20}],"rtt":[],"parked":0,"in_flight":0}
}

func TestStatusNames(t *testing.T) {
	src := &fake{log: eventlog.New(0), snapshot: Snapshot{
		Nodes: []Node{{"edge", "nrt", "edge", ""}, {"w-fra", "fra", "worker", "Frankfurt"}},
		Machines: []Machine{
			{"fra-1", "web", "fra", "w-fra", "v2", "started", "passing", "soft", 3, 7, 10, 20, "no"},
		},
		RTT:      []RTT{{"nrt", "fra", 226.5, 0.25, "stale"}},
		Parked:   2,
		Started:  time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Requests: 99,
		InFlight: 9,
	}}
	res := get(Handler(src), "GET", "/status.json")
	if got := res.Header.Get("Content-Type"); res.StatusCode != 200 || got != "application/json" {
		t.Errorf("status %d, type %q", res.StatusCode, got)
	}
	const want = `{
 "nodes": [
  {"id": "edge", "region": "nrt", "role": "edge"},
  {"id": "w-fra", "region": "fra", "role": "worker", "place": "Frankfurt"}
 ],
 "machines": [
  {"id": "fra-1", "app": "web", "region": "fra", "owner": "w-fra", "revision": "v2", "state": "started", "health": "passing",
   "cordon": "soft", "epoch": 3, "load": 7, "soft": 10, "hard": 20, "fault": "no"}
 ],
 "rtt": [{"from": "nrt", "to": "fra", "ms": 226.5, "loss": 0.25, "state": "stale"}],
 "parked": 2,
 "started": "2026-01-02T03:04:05Z", "requests": 99, "in_flight": 9
}`
	if d := cmp.Diff(parse(t, want), parse(t, body(t, res))); d != "" {
		t.Error(d)
	}
}

func parse(t *testing.T, s string) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		t.Fatalf("%v in %s", err, s)
	}
	return v
}

func TestStatusThatIsNoJSON(t *testing.T) {
	src := &fake{
		log: eventlog.New(0), snapshot: Snapshot{RTT: []RTT{{From: "a", To: "b", MS: math.NaN()}}},
	}
	if res := get(Handler(src), "GET", "/status.json"); res.StatusCode != http.StatusInternalServerError {
		t.Errorf("status %d: %s", res.StatusCode, body(t, res))
	}
}

func TestPathsAndMethods(t *testing.T) {
	h := Handler(&fake{log: eventlog.New(0)})
	for _, row := range []struct {
		method, path string
		code         int
		contentType  string
	}{
		{"GET", "/", 200, "text/html; charset=utf-8"},
		{"HEAD", "/", 200, "text/html; charset=utf-8"},
		{"GET", "/page.css", 200, "text/css; charset=utf-8"},
		{"GET", "/page.js", 200, "text/javascript; charset=utf-8"},
		{"GET", "/status.json", 200, "application/json"},
		{"HEAD", "/status.json", 200, "application/json"},
		{"HEAD", "/events", 200, "text/event-stream"},
		{"GET", "/events?since=0&follow=0", 200, "text/event-stream"},
		{"GET", "/events?since=yesterday", 400, "text/plain; charset=utf-8"},
		{"GET", "/events?since=-1", 400, "text/plain; charset=utf-8"},
		{"GET", "/nothing", 404, "text/plain; charset=utf-8"},
		{"GET", "/page/index.html", 404, "text/plain; charset=utf-8"},
		{"POST", "/", 405, "text/plain; charset=utf-8"},
		{"POST", "/status.json", 405, "text/plain; charset=utf-8"},
		{"DELETE", "/events", 405, "text/plain; charset=utf-8"},
	} {
		res := get(h, row.method, row.path)
		if got := res.Header.Get("Content-Type"); res.StatusCode != row.code || got != row.contentType {
			t.Errorf(
				"%s %s: status %d, type %q; want %d, %q", row.method, row.path, res.StatusCode, got, row.code,
				row.contentType,
			)
		}
		if row.code == 405 && res.Header.Get("Allow") != "GET, HEAD" {
			t.Errorf("%s %s: Allow is %q", row.method, row.path, res.Header.Get("Allow"))
		}
		for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"} {
			if got := res.Header.Get(name); got != want && row.code == 200 {
				t.Errorf("%s %s: %s is %q", row.method, row.path, name, got)
			}
		}
	}
	if got := body(t, get(h, "GET", "/events?since=yesterday")); !strings.Contains(
		got, `since "yesterday": want the sequence number`,
	) {
		t.Errorf("says %q", got)
	}
}

// What is put into the page comes from outside. It must reach the document as text, and the page
// must load nothing else.
func TestPageIsSafe(t *testing.T) {
	files := map[string]string{}
	var allScripts string
	entries, err := page.ReadDir("page")
	if err != nil {
		t.Fatal(err)
	}
	h := Handler(&fake{log: eventlog.New(0)})
	for _, e := range entries {
		text, _ := page.ReadFile("page/" + e.Name())
		files[e.Name()] = string(text)
		if strings.HasSuffix(e.Name(), ".js") {
			allScripts += string(text)
		}
		path := strings.TrimSuffix("/"+e.Name(), "index.html")
		if res := get(h, "GET", path); res.StatusCode != 200 || body(t, res) != string(text) {
			t.Errorf("GET %s: status %d", path, res.StatusCode)
		}
	}
	for _, bad := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "DOMParser", "srcdoc"} {
		if strings.Contains(allScripts, bad) {
			t.Errorf("the page's scripts use %s", bad)
		}
	}
	for name, text := range files {
		for _, url := range regexp.MustCompile(`(?:https?:)?//[a-z0-9.]+\.[a-z]+[^'")\s]*`).FindAllString(text, -1) {
			if url != "http://www.w3.org/2000/svg" {
				t.Errorf("%s refers to %s", name, url)
			}
		}
	}
	if regexp.MustCompile(`(?i)\son[a-z]+=|\sstyle=|<style|javascript:`).
		MatchString(files["index.html"]) {
		t.Error("index.html has inline script or style, which its own policy forbids")
	}
	policy := get(h, "GET", "/").Header.Get("Content-Security-Policy")
	if !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") {
		t.Errorf("policy %q", policy)
	}
	// Every element that the scripts look up is there, and so is every module that they import.
	for _, m := range regexp.MustCompile(`\$\("([a-z-]+)"\)`).FindAllStringSubmatch(allScripts, -1) {
		if !strings.Contains(files["index.html"], `id="`+m[1]+`"`) {
			t.Errorf("a script looks for %q", m[1])
		}
	}
	for _, m := range regexp.MustCompile(`from "\./([a-z.]+)"`).FindAllStringSubmatch(allScripts, -1) {
		if files[m[1]] == "" {
			t.Errorf("a script imports %q", m[1])
		}
	}
}

// sse is one parsed message of a stream.
type sse struct {
	id    string
	event events.Event
}

// readSSE reads messages until n have come, or the stream ends. It skips comments and retry lines.
func readSSE(t *testing.T, r *bufio.Reader, n int) (messages []sse) {
	t.Helper()
	var m sse
	for len(messages) < n {
		line, err := r.ReadString('\n')
		if err != nil {
			return messages
		}
		switch line = strings.TrimSuffix(line, "\n"); {
		case strings.HasPrefix(line, "id: "):
			m.id = line[4:]
		case strings.HasPrefix(line, "data: "):
			var fields map[string]any
			if err := json.Unmarshal([]byte(line[6:]), &fields); err != nil {
				t.Fatalf("%v in %s", err, line)
			}
			for _, name := range []string{"seq", "time", "kind", "app", "machine", "node", "reason"} {
				if _, ok := fields[name]; !ok {
					t.Errorf("no %q in %s", name, line)
				}
			}
			json.Unmarshal([]byte(line[6:]), &m.event)
		case line == "" && m.id != "":
			messages = append(messages, m)
			m = sse{}
		}
	}
	return messages
}

func brief(messages []sse) []string {
	var lines []string
	for _, m := range messages {
		lines = append(lines, fmt.Sprint(m.id, " ", m.event.Seq, " ", m.event.Kind, " ", m.event.Machine))
	}
	return lines
}

func TestEventsReplay(t *testing.T) {
	src := &fake{log: eventlog.New(1000)}
	for i := range 1500 {
		src.log.Add(events.Event{Kind: events.Start, Machine: fmt.Sprint("m", i+1)})
	}
	h := Handler(src)
	for _, row := range []struct {
		since, lastEventID string
		first, count       int
	}{
		{"0", "", 501, 1000}, // all that is kept
		{"1498", "", 1499, 2},
		{"0", "1499", 1500, 1},  // the header of a browser that reconnects is newer than its address
		{"9999", "", 501, 1000}, // a number of an earlier process
		{"1500", "", 0, 0},
	} {
		r := httptest.NewRequest("GET", pageURL+"/events?follow=0&since="+row.since, nil)
		if row.lastEventID != "" {
			r.Header.Set("Last-Event-ID", row.lastEventID)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		got := readSSE(t, bufio.NewReader(w.Body), 5000)
		if len(got) != row.count {
			t.Errorf(
				"since %s, last %q: %d events, want %d", row.since, row.lastEventID, len(got), row.count,
			)
			continue
		}
		for i, m := range got {
			if seq := row.first + i; m.id != fmt.Sprint(seq) || m.event.Seq != uint64(seq) ||
				m.event.Machine != fmt.Sprint("m", seq) {
				t.Fatalf("since %s: message %d is %+v", row.since, i, m)
			}
		}
	}
}

// streamWriter is a ResponseWriter whose body can be read while the handler runs.
type streamWriter struct {
	header http.Header
	*io.PipeWriter
}

func (w *streamWriter) Header() http.Header { return w.header }
func (w *streamWriter) WriteHeader(int)     {}
func (w *streamWriter) Flush()              {}

func TestEventsLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fake{log: eventlog.New(0)}
		src.log.Add(events.Event{Kind: events.Start, Machine: "before"})
		ctx, cancel := context.WithCancel(t.Context())
		pr, pw := io.Pipe()
		done := make(chan bool)
		go func() {
			defer close(done)
			defer pw.Close()
			// Without since: from now on.
			Handler(
				src,
			).ServeHTTP(&streamWriter{http.Header{}, pw}, httptest.NewRequest("GET", pageURL+"/events", nil).WithContext(ctx))
		}()
		r := bufio.NewReader(pr)
		if line, _ := r.ReadString('\n'); line != "retry: 1000\n" {
			t.Errorf("begins with %q", line)
		}
		r.ReadString('\n')
		synctest.Wait()
		src.log.Add(events.Event{Kind: events.Started, Machine: "now"})
		start := time.Now()
		if got := brief(readSSE(t, r, 1)); len(got) != 1 || got[0] != "2 2 started now" ||
			time.Since(start) != 0 {
			t.Errorf("got %q after %v", got, time.Since(start))
		}
		// A quiet stream sends a sign of life.
		if line, _ := r.ReadString('\n'); line != ":\n" || time.Since(start) != keepAlive {
			t.Errorf("got %q after %v", line, time.Since(start))
		}
		r.ReadString('\n')
		for range 3 {
			src.log.Add(events.Event{Kind: events.Bounce, Machine: "m", Reason: "full"})
		}
		got := readSSE(t, r, 2)
		if d := cmp.Diff([]string{"3 3 bounce m", "4 4 bounce m"}, brief(got)); d != "" {
			t.Error(d)
		}
		if e := got[1].event; e.Reason != "2 bounces: full" || e.Count != 2 {
			t.Errorf("the sum is %+v", e)
		}
		cancel()
		go io.Copy(io.Discard, r)
		<-done
	})
}

func TestEventsEndWithTheLog(t *testing.T) {
	src := &fake{log: eventlog.New(0)}
	srv := httptest.NewServer(Handler(src))
	defer srv.Close()
	res, err := srv.Client().Get(srv.URL + "/events?since=0")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	r := bufio.NewReader(res.Body)
	src.log.Add(events.Event{Kind: events.Stop, Machine: "m"})
	if got := brief(readSSE(t, r, 1)); len(got) != 1 {
		t.Errorf("got %q", got)
	}
	src.log.Add(events.Event{Kind: events.Stopped, Machine: "m"})
	src.log.Close()
	if got := brief(readSSE(t, r, 100)); len(got) != 1 || got[0] != "2 2 stopped m" {
		t.Errorf("then %q", got)
	}
}

// A client that reads nothing must not hold the handler for ever, nor the writers of the log at
// all.
func TestEventsToAStalledClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fake{log: eventlog.New(10)}
		w := &stallingWriter{header: http.Header{}}
		done := make(chan bool)
		go func() {
			defer close(done)
			Handler(src).ServeHTTP(w, httptest.NewRequest("GET", pageURL+"/events?since=0", nil))
		}()
		synctest.Wait()
		start := time.Now()
		for range 1000 {
			src.log.Add(events.Event{Kind: events.Start})
		}
		if time.Since(start) != 0 {
			t.Errorf("the writer waited %v", time.Since(start))
		}
		<-done
		if got := time.Since(start); got != stalled {
			t.Errorf("the stream ended after %v", got)
		}
	})
}

// stallingWriter accepts the first write, and makes later ones wait for their deadline.
type stallingWriter struct {
	header   http.Header
	writes   int
	deadline time.Time
}

func (w *stallingWriter) Header() http.Header                { return w.header }
func (w *stallingWriter) WriteHeader(int)                    {}
func (w *stallingWriter) Flush()                             {}
func (w *stallingWriter) SetWriteDeadline(t time.Time) error { w.deadline = t; return nil }

func (w *stallingWriter) Write(p []byte) (int, error) {
	if w.writes++; w.writes == 1 {
		return len(p), nil
	}
	time.Sleep(time.Until(w.deadline))
	return 0, context.DeadlineExceeded
}

// A page whose name somebody else points to this machine must neither read nor do anything: the
// browser considers it the same origin.
func TestOnlyRequestsForThisMachine(t *testing.T) {
	for _, row := range []struct {
		host string
		code int
	}{
		{"127.0.0.1:8081", 200},
		{"127.0.0.1", 200},
		{"10.1.2.3:9000", 200}, // forwarded from another address and port
		{"[::1]:8081", 200},
		{"[::1]", 200},
		{"[fe80::1%eth0]:8081", 200},
		{"localhost:8081", 200},
		{"LocalHost", 200},
		{"localhost.:8081", 200},
		{"ops.example.com", 200},
		{"OPS.example.com.:8081", 200},
		{"evil.example:8081", 403},
		{"evil.example", 403},
		{"ops.example.com.evil.example", 403},
		{"evil.ops.example.com", 403},
		{"localhost.evil.example", 403},
		{"evil.localhost", 403},
		{"127.0.0.1.evil.example:8081", 403},
		{"127.0.0.1:8081.evil.example", 403},
		{"127.1:8081", 403}, // browsers write it in full
		{"0x7f000001", 403},
		{"[::1].evil.example", 403},
		{"", 403},
		{".", 403},
		{":8081", 403},
	} {
		src := newDoor()
		h := Handler(src, "ops.example.com", "")
		for _, path := range []string{"/", "/page.js", "/status.json", "/events?follow=0", "/nothing"} {
			r := httptest.NewRequest("GET", path, nil)
			r.Host = row.host
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			want := row.code
			if path == "/nothing" && want == 200 {
				want = 404
			}
			if w.Code != want {
				t.Errorf("GET %s with Host %q: status %d, want %d", path, row.host, w.Code, want)
			}
			if w.Code == 403 &&
				(!strings.HasPrefix(w.Body.String(), "status: Host ") || !strings.Contains(w.Body.String(), "localhost")) {
				t.Errorf("Host %q: says %q", row.host, w.Body)
			}
		}
		r := httptest.NewRequest("POST", "/stop", strings.NewReader("machine=nrt-1"))
		r.Host = row.host
		r.Header.Set("Content-Type", formType)
		r.Header.Set("Origin", "http://"+row.host)
		r.Header.Set("Sec-Fetch-Site", "same-origin")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != row.code || (src.asked != "") != (row.code == http.StatusOK) {
			t.Errorf(
				"POST /stop with Host %q: status %d, stopped %q; want %d", row.host, w.Code, src.asked,
				row.code,
			)
		}
	}
}
