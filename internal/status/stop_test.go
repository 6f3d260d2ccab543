package status

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/ebbkit/ebb/internal/eventlog"
)

// door is a source that notes what it is asked to stop.
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
		if code != 200 || !strings.HasPrefix(says, `{"machine":"nrt-1","took_ms":`) || src.asked != "nrt-1" || src.order != row.want {
			t.Errorf("%s: status %d, %s, asked for %q, %+v; want %+v", row.body, code, says, src.asked, src.order, row.want)
		}
	}
	if got := body(t, get(Handler(newDoor()), "GET", "/status.json")); !strings.Contains(got, `"also":["stop"]`) {
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
		if code != row.code || !strings.HasPrefix(says, "status: ") || !strings.Contains(says, row.says) || !strings.Contains(says, row.remedy) || len(says) > 300 {
			t.Errorf("%.80s: status %d and %q; want %d, %q and the remedy %q", row.body, code, says, row.code, row.says, row.remedy)
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
		if code, says := stop(t, src, formType, "machine=nrt-1"); code != row.code || !strings.Contains(says, row.says) {
			t.Errorf("%v: status %d, %q", row.fault, code, says)
		}
	}
	// A page from elsewhere that is open in the same browser must not stop machines.
	src := newDoor()
	if code, _ := stop(t, src, formType, "machine=nrt-1", "Origin", "https://example.com", "Sec-Fetch-Site", "cross-site"); code != 403 || src.asked != "" {
		t.Errorf("from another site: status %d, asked for %q", code, src.asked)
	}
	if code, says := stop(t, &fake{log: eventlog.New(0)}, formType, "machine=nrt-1"); code != 404 || !strings.Contains(says, "cannot be stopped") {
		t.Errorf("a source without: status %d, %q", code, says)
	}
}
