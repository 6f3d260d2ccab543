package status

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ebbkit/ebb/internal/eventlog"
)

// linked is a source with links that remember what they were set to.
type linked struct {
	fake
	mu    sync.Mutex
	links []Link
	fault error
}

func newLinked() *linked {
	return &linked{fake: fake{log: eventlog.New(0)}, links: []Link{{"nrt", "hkg", 36.8, 36.8}, {"nrt", "fra", 226, 226}, {"hkg", "ewr", 182, 182}}}
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
		if res.StatusCode != row.code || !strings.HasPrefix(got, "status: ") || !strings.Contains(got, row.says) || !strings.Contains(got, row.remedy) || len(got) > 300 {
			t.Errorf("%.80s: status %d and %q; want %d, %q and the remedy %q", row.body, res.StatusCode, got, row.code, row.says, row.remedy)
		}
		if d := cmp.Diff(newLinked().links, src.links); d != "" {
			t.Errorf("%.80s: refused, but %s", row.body, d)
		}
	}
	src := newLinked()
	src.fault = errors.New(`ms "1": the link is being rebuilt: try again`)
	if res := post(Handler(src), `{"from":"nrt","to":"fra","ms":1}`, "Content-Type", jsonType); res.StatusCode != 400 || !strings.Contains(body(t, res), "being rebuilt") {
		t.Errorf("a source that refuses: status %d", res.StatusCode)
	}
}

// A page from elsewhere that is open in the same browser must not turn the links.
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
	// Who has none, by type or at the moment, offers none.
	none := newLinked()
	none.links = nil
	for name, src := range map[string]Source{"no links": &fake{log: eventlog.New(0)}, "empty": none} {
		h := Handler(src)
		if res := get(h, "GET", "/links"); res.StatusCode != 404 || !strings.Contains(body(t, res), "no emulated links") {
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
