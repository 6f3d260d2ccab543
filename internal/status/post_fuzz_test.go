package status

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// counted is a source that can do everything, and counts what it was told to do.
type counted struct {
	*linked
	orders []Order
}

func (c *counted) StopMachine(_ context.Context, _ string, o Order) error {
	c.orders = append(c.orders, o)
	return nil
}

// Whatever is posted, it is done or refused: never a panic, an error of the server's, or something done that was refused.
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
