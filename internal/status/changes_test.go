package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ebbkit/ebb/internal/eventlog"
	"github.com/google/go-cmp/cmp"
)

// linked is a source with links that remember what they were set to.
type linked struct {
	fake
	mu    sync.Mutex
	links []Link
	fault error
}

func newLinked() *linked {
	return &linked{
		fake:  fake{log: eventlog.New(0)},
		links: []Link{{"nrt", "hkg", 36.8, 36.8}, {"nrt", "fra", 226, 226}, {"hkg", "ewr", 182, 182}},
	}
}

func (l *linked) Links() []Link {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.links)
}

func (l *linked) SetLink(from, to string, rtt time.Duration) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fault != nil {
		return l.fault
	}
	i := slices.IndexFunc(l.links, func(k Link) bool { return k.From == from && k.To == to })
	if i < 0 {
		return errors.New("not a link as listed")
	}
	l.links[i].MS = float64(rtt) / float64(time.Millisecond)
	return nil
}

const jsonType, formType = "application/json", "application/x-www-form-urlencoded"

// post sends a body to /links with headers given as pairs.
func post(h http.Handler, body string, headers ...string) *http.Response {
	r := httptest.NewRequest("POST", "http://127.0.0.1:8081/links", strings.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func TestLinksNames(t *testing.T) {
	src := newLinked()
	h := Handler(src)
	src.links[1].MS = 300.5
	res := get(h, "GET", "/links")
	if got := res.Header.Get("Content-Type"); res.StatusCode != 200 || got != jsonType {
		t.Errorf("status %d, type %q", res.StatusCode, got)
	}
	const want = `[
 {"from": "nrt", "to": "hkg", "ms": 36.8, "usual_ms": 36.8},
 {"from": "nrt", "to": "fra", "ms": 300.5, "usual_ms": 226},
 {"from": "hkg", "to": "ewr", "ms": 182, "usual_ms": 182}
]`
	if d := cmp.Diff(parse(t, want), parse(t, body(t, res))); d != "" {
		t.Error(d)
	}
}

func TestLinkIsChanged(t *testing.T) {
	for _, row := range []struct {
		contentType, body, want string
		link                    int
	}{
		{jsonType, `{"from":"nrt","to":"fra","ms":300}`, `{"from":"nrt","to":"fra","ms":300,"usual_ms":226}`, 1},
		{jsonType + "; charset=utf-8", ` {"ms": 0.5, "from": "ewr", "to": "hkg"} `, `{"from":"hkg","to":"ewr","ms":0.5,"usual_ms":182}`, 2}, // the other way round
		{jsonType, `{"from":"nrt","to":"hkg","ms":0}`, `{"from":"nrt","to":"hkg","ms":0,"usual_ms":36.8}`, 0},
		{formType, `from=nrt&to=hkg&ms=10000`, `{"from":"nrt","to":"hkg","ms":10000,"usual_ms":36.8}`, 0},
		{formType, `from=fra&to=nrt&ms=1e2`, `{"from":"nrt","to":"fra","ms":100,"usual_ms":226}`, 1},
	} {
		src := newLinked()
		res := post(Handler(src), row.body, "Content-Type", row.contentType)
		got := body(t, res)
		if res.StatusCode != 200 {
			t.Errorf("%s: status %d: %s", row.body, res.StatusCode, got)
			continue
		}
		if d := cmp.Diff(parse(t, row.want), parse(t, got)); d != "" {
			t.Errorf("%s: %s", row.body, d)
		}
		want := newLinked().links
		want[row.link].MS = src.links[row.link].MS // and no other
		if d := cmp.Diff(want, src.links); d != "" || want[row.link].MS == want[row.link].Usual {
			t.Errorf("%s: %s", row.body, d)
		}
	}
}

func TestLinkRefused(t *testing.T) {
	for _, row := range []struct {
		contentType, body string
		code              int
		says, remedy      string
	}{
		{jsonType, `{"from":"nrt","to":"fra","ms":-5}`, 400, `ms "-5"`, "from 0 to 10000"},
		{jsonType, `{"from":"nrt","to":"fra","ms":10000.1}`, 400, `ms "10000.1"`, "from 0 to 10000"},
		{jsonType, `{"from":"nrt","to":"fra","ms":1e999}`, 400, `ms "1e999"`, "from 0 to 10000"},
		{jsonType, `{"from":"nrt","to":"fra"}`, 400, `ms ""`, "from 0 to 10000"},
		{jsonType, `{"from":"nrt","to":"fra","ms":null}`, 400, `ms ""`, "from 0 to 10000"},
		{jsonType, `{"from":"nrt","to":"fra","ms":"soon"}`, 400, `soon`, `"ms": 300`},
		{formType, `from=nrt&to=fra&ms=NaN`, 400, `ms "NaN"`, "from 0 to 10000"},
		{formType, `from=nrt&to=fra&ms=Inf`, 400, `ms "Inf"`, "from 0 to 10000"},
		{formType, `from=nrt&to=fra&ms=1s`, 400, `ms "1s"`, "milliseconds"},
		{jsonType, `{"from":"tokyo","to":"fra","ms":1}`, 400, `from "tokyo"`, "one of ewr, fra, hkg, nrt"},
		{jsonType, `{"from":"nrt","to":"","ms":1}`, 400, `to ""`, "one of ewr, fra, hkg, nrt"},
		{jsonType, `{"from":"nrt","to":"nrt","ms":1}`, 400, `to "nrt"`, "another region"},
		{jsonType, `{"from":"nrt","to":"ewr","ms":1}`, 400, `to "ewr": no link from nrt`, "GET /links"},
		{formType, `from=` + strings.Repeat("x", 1000) + `&to=fra&ms=1`, 400, `xxx…"`, "one of"},
		{formType, `from=%zz`, 400, `body "from=%zz"`, "from=nrt&to=fra&ms=300"},
		{jsonType, ``, 400, `body ""`, `"ms": 300`},
		{jsonType, `[]`, 400, `body "[]"`, `"ms": 300`},
		{jsonType, `{"from":"nrt","to":"fra","rtt":1}`, 400, `"rtt"`, `"ms": 300`},
		{jsonType, `{"from":"nrt","to":"fra","ms":1}{}`, 400, `after its end`, `"ms": 300`},
		{jsonType, `"` + strings.Repeat("x", maxBody) + `"`, 413, "too large", `"ms": 300`},
		{"text/plain", `{"from":"nrt","to":"fra","ms":1}`, 415, `Content-Type "text/plain"`, "application/json"},
		{"", `from=nrt&to=fra&ms=1`, 415, `Content-Type ""`, "application/json"},
	} {
		src := newLinked()
		res := post(Handler(src), row.body, "Content-Type", row.contentType)
		got := body(t, res)
		if res.StatusCode != row.code || !strings.HasPrefix(got, "status: ") ||
			!strings.Contains(got, row.says) ||
			!strings.Contains(got, row.remedy) ||
			len(got) > 300 {
			t.Errorf(
				"%.80s: status %d and %q; want %d, %q and the remedy %q", row.body, res.StatusCode, got,
				row.code, row.says, row.remedy,
			)
		}
		if d := cmp.Diff(newLinked().links, src.links); d != "" {
			t.Errorf("%.80s: refused, but %s", row.body, d)
		}
	}
	src := newLinked()
	src.fault = errors.New(`ms "1": the link is being rebuilt: try again`)
	if res := post(Handler(src), `{"from":"nrt","to":"fra","ms":1}`, "Content-Type", jsonType); res.StatusCode != 400 ||
		!strings.Contains(body(t, res), "being rebuilt") {
		t.Errorf("a source that refuses: status %d", res.StatusCode)
	}
}

// A page of another site that is open in the same browser must not change the links.
func TestLinksOnlyFromHere(t *testing.T) {
	const change = `from=nrt&to=fra&ms=300`
	for _, row := range []struct {
		name    string
		headers []string
		code    int
	}{
		{"no browser", nil, 200},
		{"this page", []string{"Origin", "http://127.0.0.1:8081", "Sec-Fetch-Site", "same-origin"}, 200},
		{"this page, in a browser that does not say where it is", []string{"Origin", "http://127.0.0.1:8081"}, 200},
		{"another site", []string{"Origin", "https://example.com", "Sec-Fetch-Site", "cross-site"}, 403},
		{"another site, from an old browser", []string{"Origin", "https://example.com"}, 403},
		{"another port of this machine", []string{"Origin", "http://127.0.0.1:8080", "Sec-Fetch-Site", "same-site"}, 403},
		{"a sandboxed frame", []string{"Origin", "null"}, 403},
	} {
		for _, contentType := range []string{formType, jsonType} {
			src, text := newLinked(), change
			if contentType == jsonType {
				text = `{"from":"nrt","to":"fra","ms":300}`
			}
			res := post(Handler(src), text, append(row.headers, "Content-Type", contentType)...)
			if res.StatusCode != row.code {
				t.Errorf("%s, %s: status %d: %s", row.name, contentType, res.StatusCode, body(t, res))
			}
			if changed := src.links[1].MS == 300; changed != (row.code == 200) {
				t.Errorf("%s, %s: changed is %v", row.name, contentType, changed)
			}
			if got := res.Header.Get("Access-Control-Allow-Origin"); got != "" {
				t.Errorf("%s: allows %q", row.name, got)
			}
		}
	}
}

func TestLinksPathsAndMethods(t *testing.T) {
	h := Handler(newLinked())
	for _, row := range []struct {
		method string
		code   int
	}{{"GET", 200}, {"HEAD", 200}, {"PUT", 405}, {"DELETE", 405}, {"OPTIONS", 405}} {
		res := get(h, row.method, "/links")
		if res.StatusCode != row.code || row.code == 405 && res.Header.Get("Allow") != "GET, HEAD, POST" {
			t.Errorf("%s /links: status %d, Allow %q", row.method, res.StatusCode, res.Header.Get("Allow"))
		}
	}
	// A source that has none, by type or at the moment, offers none.
	none := newLinked()
	none.links = nil
	for name, src := range map[string]Source{"no links": &fake{log: eventlog.New(0)}, "empty": none} {
		h := Handler(src)
		if res := get(h, "GET", "/links"); res.StatusCode != 404 ||
			!strings.Contains(body(t, res), "no emulated links") {
			t.Errorf("%s: GET: status %d", name, res.StatusCode)
		}
		if res := post(h, `{"from":"nrt","to":"fra","ms":1}`, "Content-Type", jsonType); res.StatusCode != 404 {
			t.Errorf("%s: POST: status %d", name, res.StatusCode)
		}
		if got := body(t, get(h, "GET", "/status.json")); strings.Contains(got, "also") {
			t.Errorf("%s: says %s", name, got)
		}
	}
	if got := body(t, get(h, "GET", "/status.json")); !strings.Contains(got, `"also":["links"]`) {
		t.Errorf("says %s", got)
	}
}

func TestLinksConcurrently(t *testing.T) {
	src := newLinked()
	h := Handler(src)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if res := post(h, `{"from":"nrt","to":"fra","ms":5}`, "Content-Type", jsonType); res.StatusCode != 200 {
					t.Errorf("POST: status %d", res.StatusCode)
				}
				if res := get(h, "GET", "/links"); res.StatusCode != 200 {
					t.Errorf("GET: status %d", res.StatusCode)
				}
			}
		})
	}
	wg.Wait()
}

// door is a source that records what it is asked to stop.
type door struct {
	fake
	asked string
	order Order
	fault error
}

func newDoor() *door { return &door{fake: fake{log: eventlog.New(0)}} }

func (d *door) StopMachine(_ context.Context, machine string, o Order) error {
	d.asked, d.order = machine, o
	return d.fault
}

// stop posts a body to /stop and returns the status and what it says.
func stop(t *testing.T, src Source, contentType, text string, headers ...string) (int, string) {
	t.Helper()
	r := httptest.NewRequest("POST", "http://127.0.0.1:8081/stop", strings.NewReader(text))
	r.Header.Set("Content-Type", contentType)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	Handler(src).ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func TestStopIsOrdered(t *testing.T) {
	for _, row := range []struct {
		contentType, body string
		want              Order
	}{
		{jsonType, `{"machine":"nrt-1"}`, Order{Reason: "stopped by hand"}},
		{jsonType, `{"machine":"nrt-1","drain":"1m30s","suspend":true,"reason":"new kernel"}`, Order{"new kernel", true, 90 * time.Second}},
		{formType, `machine=nrt-1`, Order{Reason: "stopped by hand"}},
		{formType, `machine=nrt-1&drain=10s&suspend=true&reason=new+kernel`, Order{"new kernel", true, 10 * time.Second}},
		{formType, `machine=nrt-1&suspend=0&drain=0s`, Order{Reason: "stopped by hand"}},
	} {
		src := newDoor()
		code, says := stop(t, src, row.contentType, row.body)
		if code != 200 || !strings.HasPrefix(says, `{"machine":"nrt-1","took_ms":`) ||
			src.asked != "nrt-1" ||
			src.order != row.want {
			t.Errorf(
				"%s: status %d, %s, asked for %q, %+v; want %+v", row.body, code, says, src.asked, src.order,
				row.want,
			)
		}
	}
	if got := body(t, get(Handler(newDoor()), "GET", "/status.json")); !strings.Contains(
		got, `"also":["stop"]`,
	) {
		t.Errorf("the page is not told: %s", got)
	}
}

func TestStopRefused(t *testing.T) {
	for _, row := range []struct {
		contentType, body string
		code              int
		says, remedy      string
	}{
		{jsonType, `{}`, 400, `machine ""`, "GET /status.json"},
		{formType, `machine=nrt-1&drain=10`, 400, `drain "10"`, "as in 10s"},
		{formType, `machine=nrt-1&drain=-1s`, 400, `drain "-1s"`, "from 0s"},
		{formType, `machine=nrt-1&drain=2h`, 400, `drain "2h"`, "1h"},
		{formType, `machine=nrt-1&suspend=maybe`, 400, `suspend "maybe"`, "true or false"},
		{formType, `machine=nrt-1&reason=` + strings.Repeat("x", 201), 400, "reason", "200 bytes"},
		{jsonType, `{"machine":"nrt-1","when":"now"}`, 400, `when`, `"drain": "10s"`},
		{jsonType, `{"machine":1}`, 400, `body`, `"drain": "10s"`},
		{"text/plain", `machine=nrt-1`, 415, "text/plain", "application/json"},
	} {
		src := newDoor()
		code, says := stop(t, src, row.contentType, row.body)
		if code != row.code || !strings.HasPrefix(says, "status: ") ||
			!strings.Contains(says, row.says) ||
			!strings.Contains(says, row.remedy) ||
			len(says) > 300 {
			t.Errorf(
				"%.80s: status %d and %q; want %d, %q and the remedy %q", row.body, code, says, row.code,
				row.says, row.remedy,
			)
		}
		if src.asked != "" {
			t.Errorf("%.80s: refused, but %q was stopped", row.body, src.asked)
		}
	}
	for _, row := range []struct {
		fault error
		code  int
		says  string
	}{
		{ErrNoMachine, 404, `machine "nrt-1"`},
		{fmt.Errorf("%w: 3 in flight", ErrRunsOn), 409, "3 in flight"},
		{errors.New("the roof is on fire"), 500, "roof"},
	} {
		src := newDoor()
		src.fault = row.fault
		if code, says := stop(t, src, formType, "machine=nrt-1"); code != row.code ||
			!strings.Contains(says, row.says) {
			t.Errorf("%v: status %d, %q", row.fault, code, says)
		}
	}
	// A page of another site that is open in the same browser must not stop machines.
	src := newDoor()
	if code, _ := stop(t, src, formType, "machine=nrt-1", "Origin", "https://example.com", "Sec-Fetch-Site", "cross-site"); code != 403 ||
		src.asked != "" {
		t.Errorf("from another site: status %d, asked for %q", code, src.asked)
	}
	if code, says := stop(t, &fake{log: eventlog.New(0)}, formType, "machine=nrt-1"); code != 404 ||
		!strings.Contains(says, "cannot be stopped") {
		t.Errorf("a source without: status %d, %q", code, says)
	}
}

// counted is a source that implements everything, and counts what it was told to do.
type counted struct {
	*linked
	orders []Order
}

func (c *counted) StopMachine(_ context.Context, _ string, o Order) error {
	c.orders = append(c.orders, o)
	return nil
}

// Whatever is posted is done or refused: never a panic, an error of the server's, or an action that
// was reported as refused.
func FuzzPosts(f *testing.F) {
	for _, body := range []string{
		`{"machine":"a","drain":"1s"}`, "machine=a&drain=10s&suspend=true", `{"from":"nrt","to":"fra","ms":1e3}`,
		`{"machine":"a"}garbage`, `{"machine":"a"}]`, `{"machine":"a"}]garbage`, `{"machine":"a"}}`, `{"machine":"a"} `, `{"machine":"a"},{}`,
	} {
		for how := range uint8(8) {
			f.Add(body, how)
		}
	}
	f.Fuzz(func(t *testing.T, body string, how uint8) {
		src := &counted{linked: newLinked()}
		path, kind, foreign := "/stop", formType, how&4 != 0
		if how&1 != 0 {
			kind = jsonType
		}
		if how&2 != 0 {
			path = "/links"
		}
		r := httptest.NewRequest("POST", pageURL+path, strings.NewReader(body))
		r.Header.Set("Content-Type", kind)
		if foreign {
			r.Header.Set("Origin", "https://example.com")
		}
		w := httptest.NewRecorder()
		Handler(src).ServeHTTP(w, r)
		switch {
		case w.Code >= 500, foreign && w.Code != http.StatusForbidden:
			t.Fatalf("%d %s", w.Code, w.Body)
		case w.Code != http.StatusOK && len(src.orders) > 0:
			t.Fatalf("refused with %d, and done", w.Code)
		}
		for _, o := range src.orders {
			if o.Drain < 0 || o.Drain > maxDrain || len(o.Reason) > 200 || o.Reason == "" {
				t.Fatalf("an order that makes no sense: %+v", o)
			}
		}
		if kind == jsonType && w.Code == http.StatusOK && !json.Valid([]byte(body)) {
			t.Fatalf("what is no JSON, or goes on after it, was taken: %q", body)
		}
	})
}
