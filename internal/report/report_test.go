package report

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/eventlog"
)

// Whatever keeps a machine from being ready or healthy is reported, to the log and to the user's
// own trace.
func TestWhatMachinesLackIsTold(t *testing.T) {
	var logged strings.Builder
	r := &Report{
		Node: "w", Log: eventlog.New(0), Logger: slog.New(slog.NewTextHandler(&logged, nil)),
		Answers: &Answers{}, Picks: &Picks{},
	}
	defer r.Log.Close()
	own := 0
	trace := machine.Trace{NotReady: func(balance.Machine, time.Duration, error) { own++ }}
	r.Starter(&trace)
	m := balance.Machine{App: "web", ID: "m1"}
	trace.Delayed(m, errors.New("429"), 1500*time.Millisecond)
	trace.Delayed(m, errors.New("not its turn"), 0)
	trace.NotReady(m, 5*time.Second, errors.New("connection refused at 127.0.0.1:2345"))
	trace.Health(m, balance.HealthFailing, errors.New("GET /up: 500"))
	trace.Health(m, balance.HealthPassing, nil)
	want := []string{
		"delayed: tried again in 1.5s: 429", "delayed: given up until it is wanted again: not its turn",
		"not-ready: not ready after 5s: connection refused at 127.0.0.1:2345",
		"health: its checks fail: GET /up: 500", "health: its checks pass again",
	}
	var got []string
	for _, e := range r.Log.Since(0, 100) {
		got = append(got, string(e.Kind)+": "+e.Reason)
	}
	if !slices.Equal(got, want) {
		t.Errorf("log %q, want %q", got, want)
	}
	if own != 1 || strings.Count(logged.String(), "level=WARN") != 5 {
		t.Errorf("%d, %s", own, logged.String())
	}
}
