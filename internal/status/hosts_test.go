package status

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// A page whose name somebody else points to this machine must neither read nor do anything: for the browser it is of the
// same origin.
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
			if w.Code == 403 && (!strings.HasPrefix(w.Body.String(), "status: Host ") || !strings.Contains(w.Body.String(), "localhost")) {
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
			t.Errorf("POST /stop with Host %q: status %d, stopped %q; want %d", row.host, w.Code, src.asked, row.code)
		}
	}
}
