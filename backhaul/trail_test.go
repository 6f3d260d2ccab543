package backhaul

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// When everything fails, the tries of all requests together stay within the budget, and clients hear of the failure.
func TestRetriesDoNotMultiplyADisaster(t *testing.T) {
	var tries int
	r := newRig(t, rigConfig{app: roomy, local: true, config: Config{
		MachineConfig: MachineConfig{
			DialMachine: nil,
		}, tuning: tuning{failureFloor: 1}, Trace: Trace{Event: on(EventPick, func(Event) { tries++ })},
	}})
	for i := range 5 {
		r.host(balance.MachineID(fmt.Sprint("m", i)), "127.0.0.1:1") // nobody listens
	}
	const n = 300
	for range n {
		_, err := r.transport.RoundTrip(request(t, "POST", "http://web/", nil))
		if _, ok := errors.AsType[*MachineError](err); !ok {
			if _, ok := errors.AsType[*UnavailableError](err); !ok {
				t.Fatalf("got %v", err)
			}
		}
	}
	if most := n*12/10 + 10 + 120; tries > most {
		t.Errorf("%d tries for %d requests", tries, n)
	}
	t.Logf("%d tries for %d requests", tries, n)
}

func TestTrails(t *testing.T) {
	var trails []Trail
	r := newRig(t, rigConfig{app: roomy, config: Config{
		tuning: tuning{slow: -1, sample: -1},
		Trace:  Trace{Trail: func(t Trail) { trails = append(trails, t) }},
	}})
	var traces []string
	note := http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) { traces = append(traces, r.Header.Get("Traceparent")) },
	)
	dead, _ := cutter(t, "")
	r.host("m1", dead)
	r.serve("m2", note)
	const given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	req := request(t, "GET", "http://web/path", nil)
	req.Header.Set("Traceparent", given)
	resp, err := r.transport.RoundTrip(req)
	read(t, resp, err)
	if len(trails) != 1 {
		t.Fatalf("%d trails", len(trails))
	}
	tr := trails[0]
	var steps []string
	for i, s := range tr.Events {
		steps = append(steps, fmt.Sprint(s.Kind, " ", s.Machine, " ", s.Failure))
		if i > 0 && s.At < tr.Events[i-1].At {
			t.Errorf("step %d before the one before it", i)
		}
	}
	want := "pick m1 none, retry m1 reset, pick m2 none, answer m2 none"
	if got := strings.Join(steps, ", "); got != want || tr.Done.Method != "GET" ||
		tr.Path != "/path" ||
		tr.Sampled {
		t.Errorf("got %s %+v, want %s", got, tr, want)
	}
	if len(traces) != 1 || traces[0] != given || tr.Trace != given {
		t.Errorf("traces %q, trail has %q", traces, tr.Trace)
	}
	for _, tt := range []struct {
		d             Done
		want, sampled bool
	}{
		{Done{First: 10 * time.Millisecond, Total: time.Hour}, false, true}, // a WebSocket
		{Done{First: 2 * time.Second, Total: 3 * time.Second}, true, false},
		{Done{Total: 3 * time.Second}, true, false},
		{Done{First: 1, failures: 1}, true, false},
		{Done{First: 1, Err: errPanic}, true, false},
		{Done{First: 1, Outcome: balance.OutcomeError}, true, false},
	} {
		if want, sampled := wanted(tt.d, time.Second, 1000, 1); want != tt.want ||
			want && sampled != tt.sampled {
			t.Errorf("%+v: got %v, %v", tt.d, want, sampled)
		}
	}
	if want, sampled := wanted(Done{First: 1}, time.Second, 1000, 5000); !want || !sampled {
		t.Error("the sample is empty")
	}
}
