package status

import (
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ebbkit/ebb/internal/eventlog"
)

// picked is a source with picks.
type picked struct {
	fake
	picks []Pick
}

func (p *picked) Picks() []Pick { return p.picks }

func newPicked(picks ...Pick) *picked { return &picked{fake{log: eventlog.New(0)}, picks} }

func TestPicksNames(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000000, time.UTC)
	src := newPicked(
		Pick{at, "edge-nrt", "web", "hkg-1", "hkg", "all in nrt are at their soft limit", []Candidate{
			{"hkg-1", "hkg", 3.5, 20, 0, new(36.9), "ready"},
			{"nrt-1", "nrt", 20, 20, 40, new(0.0), "at its soft limit"},
			{"fra-1", "fra", 0, 0, 0, nil, ""},
		}},
		Pick{Time: at, Node: "edge-nrt", App: "web", Reason: "no machine can be used"},
	)
	res := get(Handler(src), "GET", "/picks")
	if got := res.Header.Get("Content-Type"); res.StatusCode != 200 || got != "application/json" {
		t.Errorf("status %d, type %q", res.StatusCode, got)
	}
	const want = `[
 {"time": "2026-01-02T03:04:05.006Z", "node": "edge-nrt", "app": "web", "machine": "hkg-1", "region": "hkg",
  "reason": "all in nrt are at their soft limit", "candidates": [
   {"machine": "hkg-1", "region": "hkg", "load": 3.5, "soft": 20, "hard": 0, "rtt_ms": 36.9, "note": "ready"},
   {"machine": "nrt-1", "region": "nrt", "load": 20, "soft": 20, "hard": 40, "rtt_ms": 0, "note": "at its soft limit"},
   {"machine": "fra-1", "region": "fra", "load": 0, "soft": 0, "hard": 0, "rtt_ms": null, "note": ""}
 ]},
 {"time": "2026-01-02T03:04:05.006Z", "node": "edge-nrt", "app": "web", "machine": "", "region": "",
  "reason": "no machine can be used", "candidates": []}
]`
	if d := cmp.Diff(parse(t, want), parse(t, body(t, res))); d != "" {
		t.Error(d)
	}
	if src.picks[1].Candidates != nil {
		t.Error("the source's list was changed")
	}
}

func TestPicksPathsAndMethods(t *testing.T) {
	h := Handler(newPicked())
	for _, row := range []struct {
		method string
		code   int
	}{{"GET", 200}, {"HEAD", 200}, {"POST", 405}, {"DELETE", 405}} {
		if res := get(h, row.method, "/picks"); res.StatusCode != row.code {
			t.Errorf("%s /picks: status %d", row.method, res.StatusCode)
		}
	}
	if got := body(t, get(h, "GET", "/picks")); got != "[]\n" {
		t.Errorf("with none yet: %q", got)
	}
	if got := body(t, get(h, "GET", "/status.json")); !strings.Contains(got, `"also":["picks"]`) {
		t.Errorf("says %s", got)
	}
	if res := get(Handler(newLinked()), "GET", "/picks"); res.StatusCode != 404 || !strings.Contains(body(t, res), "no picks") {
		t.Errorf("a source without: status %d", res.StatusCode)
	}
	bad := newPicked(Pick{Candidates: []Candidate{{Load: math.Inf(1)}}})
	if res := get(Handler(bad), "GET", "/picks"); res.StatusCode != http.StatusInternalServerError {
		t.Errorf("what is no JSON: status %d", res.StatusCode)
	}
}
