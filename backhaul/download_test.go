package backhaul

import (
	"context"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// stallRig is a path of HTTP/2 within a region, to a machine that sends as much as it is asked for.
// written counts what the machine got rid of.
func stallRig(t testing.TB, c Config) (r *rig, written *atomic.Int64) {
	c.RTT = func(balance.NodeID) (time.Duration, bool) { return time.Millisecond, true }
	r = newRig(
		t,
		rigConfig{app: balance.App{ID: "web", Limits: balance.Limits{Hard: 1000}}, h2: true, config: c},
	)
	written = new(atomic.Int64)
	chunk := make([]byte, 32<<10) // one for all: the machine's memory is not ours
	r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for range 32 * 20 { // 20 MiB
			n, err := w.Write(chunk)
			written.Add(int64(n))
			if err != nil {
				return
			}
		}
	}))
	return r, written
}

// stall begins n downloads that nobody reads, and waits until they have come to a stop.
func stall(t testing.TB, r *rig, written *atomic.Int64, n int) {
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	for range n {
		req, err := http.NewRequestWithContext(ctx, "GET", "http://web/", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := r.transport.RoundTrip(over2(req))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
	}
	poll := time.NewTicker(100 * time.Millisecond) // that nothing happens any more is no event
	defer poll.Stop()
	for still, last := 0, int64(-1); still < 5; <-poll.C {
		if now := written.Load(); now == last {
			still++
		} else {
			still, last = 0, now
		}
	}
}

// What nobody reads is held in windows: both hops together must not hold more than half a megabyte
// for each.
func TestStalledDownloadsTakeLittleMemory(t *testing.T) {
	n := 50
	if *huge {
		n = 200
	}
	r, written := stallRig(t, Config{})
	stall(t, r, written, 1)
	before := memory()
	stall(t, r, written, n)
	grown := memory() - before
	t.Logf("%d stalled downloads: %d KiB, %d KiB each", n, grown>>10, grown>>10/int64(n))
	if each := grown / int64(n); each > 100e6/200 && !raceEnabled {
		t.Errorf("%d bytes each", each)
	}
}

// A download beside a hundred that nobody reads is as fast as alone: at most 10 % slower at full
// size. By default the bound is for what goes wrong in kind. The two take turns and the best of
// each counts, so that what else the computer does weighs on neither.
func TestStalledStreamsDoNotSlowAnother(t *testing.T) {
	bound := 1.5
	if *huge {
		bound = 1.1
	}
	alone, _ := stallRig(t, Config{})
	beside, written := stallRig(t, Config{})
	stall(t, beside, written, 100)
	download := func(r *rig) time.Duration {
		began := time.Now()
		resp, err := r.transport.RoundTrip(over2(request(t, "GET", "http://web/", nil)))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if n, err := io.Copy(io.Discard, resp.Body); n != 20<<20 || err != nil {
			t.Fatalf("%d bytes, %v", n, err)
		}
		return time.Since(began)
	}
	download(alone)
	download(beside)
	const rounds = 60
	one, two := time.Hour, time.Hour
	var ratio float64
	for i := range rounds {
		one, two = min(one, download(alone)), min(two, download(beside))
		if ratio = two.Seconds() / one.Seconds(); ratio <= bound && i >= 4 {
			t.Logf(
				"alone %v, beside 100 stalled ones %v: %.2f times as long, after %d rounds", one, two, ratio,
				i+1,
			)
			return
		}
	}
	t.Errorf("alone %v, beside 100 stalled ones %v: %.2f times as long", one, two, ratio)
}
