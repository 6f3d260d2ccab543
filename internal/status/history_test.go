package status

import (
	"context"
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/internal/eventlog"
)

// remembering is a source whose requests go up by ten a second.
type remembering struct {
	fake
	began time.Time
	past  History
}

func (r *remembering) History() *History { return &r.past }

func (r *remembering) Snapshot() Snapshot {
	n := int(time.Since(r.began).Seconds())
	return Snapshot{InFlight: n, Requests: uint64(10 * n), Machines: []Machine{{State: "started"}, {State: "stopped"}}}
}

// A page that is opened later shows the time before: two minutes of it, oldest first, a sample a
// second.
func TestHistoryIsKeptByTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &remembering{fake: fake{log: eventlog.New(0)}, began: time.Now()}
		list := func() (samples []Sample) {
			t.Helper()
			if err := json.Unmarshal([]byte(body(t, get(Handler(src), "GET", "/history"))), &samples); err != nil {
				t.Fatal(err)
			}
			return samples
		}
		if got := list(); len(got) != 0 {
			t.Errorf("%v before the first sample", got)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- src.past.Run(ctx, src) }()
		for _, seconds := range []int{3, 500} {
			time.Sleep(time.Until(src.began.Add(time.Duration(seconds)*time.Second + 500*time.Millisecond)))
			got := list()
			if want := min(seconds+1, samplesKept); len(got) != want {
				t.Fatalf("%d samples after %d s, want %d", len(got), seconds, want)
			}
			for i, s := range got {
				n := seconds - len(got) + 1 + i
				if want := (Sample{Ago: float64(seconds-n) + .5, InFlight: n, Running: 1, Requests: uint64(10 * n)}); s != want {
					t.Fatalf("sample %d after %d s is %v, want %v", i, seconds, s, want)
				}
			}
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A source without a history has an empty one.
func TestNoHistoryIsAnEmptyList(t *testing.T) {
	if got := body(t, get(Handler(&fake{log: eventlog.New(0)}), "GET", "/history")); got != "[]\n" {
		t.Errorf("%q", got)
	}
}
