package status

import (
	"fmt"
	"net/http/httptest"
	"strings"
)

func ExampleLinks() {
	h := Handler(newLinked()) // a source that is also a Links
	r := httptest.NewRequest("POST", "http://127.0.0.1:8081/links", strings.NewReader(`{"from": "nrt", "to": "fra", "ms": 300}`))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	fmt.Print(w.Body)
	// Output:
	// {"from":"nrt","to":"fra","ms":300,"usual_ms":226}
}

func ExamplePicks() {
	h := Handler(newPicked(Pick{Node: "edge-nrt", App: "web", Machine: "nrt-1", Region: "nrt", Reason: "nearest, and below its soft limit"}))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "http://127.0.0.1:8081/picks", nil))
	fmt.Print(w.Body)
	// Output:
	// [{"time":"0001-01-01T00:00:00Z","node":"edge-nrt","app":"web","machine":"nrt-1","region":"nrt","reason":"nearest, and below its soft limit","candidates":[]}]
}
