package backhaul

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
)

func TestBudgetOfFailures(t *testing.T) {
	at := time.Unix(1000, 0)
	spend := func(b *budget, n int) (got int) {
		for range n {
			if b.spend(at) {
				got++
			}
		}
		return got
	}
	b := &budget{ratio: 0.2, floor: 10}
	if got := spend(b, 1000); got != 100 {
		t.Errorf("at first %d, want the floor of 10 s", got)
	}
	at = at.Add(time.Second)
	if got := spend(b, 1000); got != 10 {
		t.Errorf("after a second %d, want 10", got)
	}
	for range 500 {
		b.earn(at)
	}
	if got := spend(b, 1000); got != 100 {
		t.Errorf("after 500 requests %d, want 100", got)
	}
	for range 5000 {
		b.earn(at)
	}
	at = at.Add(time.Hour) // nothing is saved up
	if got := spend(b, 5000); got != 100 {
		t.Errorf("after an hour %d, want 100", got)
	}
	at = at.Add(-time.Minute) // time goes back
	if got := spend(b, 10); got != 0 {
		t.Errorf("in the past %d", got)
	}
	b = &budget{ratio: 0.25, floor: 1}
	spend(b, 1000)
	for range 400 {
		b.earn(at)
	}
	at = at.Add(time.Second) // what requests have earned fades, it is not lost
	if got := spend(b, 1000); got != 100 {
		t.Errorf("a second after 400 requests %d, want the 100 that they earned", got)
	}
	if off := (&budget{ratio: -1}); spend(off, 1000) != 1000 {
		t.Error("no bound bounds")
	}
}

// When everything fails, the tries of all requests together stay within the budget, and clients hear of the failure.
func TestRetriesDoNotMultiplyADisaster(t *testing.T) {
	var tries int
	r := newRig(t, rigConfig{app: roomy, local: true, config: Config{
		FailureFloor: 1, Trace: Trace{Try: func(Try) { tries++ }},
		DialMachine: nil,
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
		Slow: -1, Sample: -1, MakeTrace: true,
		Trace: Trace{Trail: func(t Trail) { trails = append(trails, t) }},
	}})
	var traces []string
	note := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { traces = append(traces, r.Header.Get("Traceparent")) })
	dead, _ := cutter(t, "")
	r.host("m1", dead)
	r.serve("m2", note)
	req := request(t, "GET", "http://web/path", nil)
	resp, err := r.transport.RoundTrip(req)
	read(t, resp, err)
	if len(trails) != 1 {
		t.Fatalf("%d trails", len(trails))
	}
	tr := trails[0]
	var steps []string
	for i, s := range tr.Steps {
		steps = append(steps, fmt.Sprint(s.Kind, " ", s.Try.Machine, " ", s.Failure))
		if i > 0 && s.At < tr.Steps[i-1].At {
			t.Errorf("step %d before the one before it", i)
		}
	}
	want := "pick m1 none, fail m1 reset, pick m2 none, head m2 none, end m2 none"
	if got := strings.Join(steps, ", "); got != want || tr.Method != "GET" || tr.Path != "/path" || tr.Sampled {
		t.Errorf("got %s %+v, want %s", got, tr, want)
	}
	if len(traces) != 1 || traces[0] != tr.Trace || len(tr.Trace) != 55 || !strings.HasPrefix(tr.Trace, "00-") {
		t.Errorf("traces %q, trail has %q", traces, tr.Trace)
	}
	const given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	req = request(t, "GET", "http://web/path", nil)
	req.Header.Set("Traceparent", given)
	resp, err = r.transport.RoundTrip(req)
	read(t, resp, err)
	if len(traces) != 2 || traces[1] != given {
		t.Errorf("traces %q", traces)
	}
	for _, tt := range []struct {
		d             Done
		want, sampled bool
	}{
		{Done{First: 10 * time.Millisecond, Total: time.Hour}, false, true}, // a WebSocket
		{Done{First: 2 * time.Second, Total: 3 * time.Second}, true, false},
		{Done{Total: 3 * time.Second}, true, false},
		{Done{First: 1, Failures: 1}, true, false},
		{Done{First: 1, Err: errPanic}, true, false},
		{Done{First: 1, Outcome: balance.OutcomeError}, true, false},
	} {
		if want, sampled := wanted(tt.d, time.Second, 1000, 1); want != tt.want || want && sampled != tt.sampled {
			t.Errorf("%+v: got %v, %v", tt.d, want, sampled)
		}
	}
	if want, sampled := wanted(Done{First: 1}, time.Second, 1000, 5000); !want || !sampled {
		t.Error("the sample is empty")
	}
}

// A request goes with bulk by the length of its body, or where one of the same route moved bulk
// lately.
func TestWhatIsBulk(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, tt := range []struct {
		length int64
		last   time.Time
		want   lane
	}{
		{0, time.Time{}, interactive},
		{-1, time.Time{}, interactive},
		{bulkSize - 1, time.Time{}, interactive},
		{bulkSize, time.Time{}, bulk},
		{0, now, bulk},
		{0, now.Add(1 - bulkMemory), bulk},
		{0, now.Add(-bulkMemory), interactive},
	} {
		if got := laneOf(tt.length, tt.last, now); got != tt.want {
			t.Errorf("%d bytes, bulk last at %v: lane %v, want %v", tt.length, tt.last, got, tt.want)
		}
	}
}

func TestWindowsSuitThePath(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct {
		rtt      time.Duration
		known    bool
		pressure float64
		had      int
		want     int // KiB
	}{
		{0, false, 0, -1, 4096},
		{0, true, 0, -1, 256},
		{4 * ms, true, 0, -1, 256},
		{16 * ms, true, 0, -1, 1024},
		{64 * ms, true, 0, -1, 4096},
		{128 * ms, true, 0, -1, 8192},
		{300 * ms, true, 0, -1, 16384},
		{-ms, true, 0, -1, 256},
		{128 * ms, true, 0.85, -1, 4096},
		{128 * ms, true, 0.95, -1, 2048},
		{4 * ms, true, 2, -1, 256},
		{16 * ms, true, 0, 3, 2048}, // 960 KiB: above three quarters of 1 MiB, no change for so little
		{10 * ms, true, 0, 3, 1024},
	} {
		if got := windowOf(chooseClass(tt.rtt, tt.known, defaultBandwidth, tt.pressure, tt.had)) >> 10; got != tt.want {
			t.Errorf("%+v: got %d KiB", tt, got)
		}
	}
	for _, tt := range []struct {
		rtt   time.Duration
		known bool
		most  time.Duration
		want  time.Duration
	}{{0, false, 3 * time.Second, 3 * time.Second}, {0, true, 0, 300 * ms}, {100 * ms, true, 0, 500 * ms}, {time.Hour, true, 0, 3 * time.Second}, {time.Hour, true, time.Second, time.Second}} {
		if got := dialLimit(tt.rtt, tt.known, tt.most); got != tt.want {
			t.Errorf("%+v: got %v", tt, got)
		}
	}
	now := time.Unix(1e6, 0)
	for _, tt := range []struct {
		length int64
		last   time.Time
		want   lane
	}{{0, time.Time{}, interactive}, {-1, time.Time{}, interactive}, {bulkSize, time.Time{}, bulk}, {0, now.Add(-time.Second), bulk}, {0, now.Add(-2 * time.Minute), interactive}} {
		if got := laneOf(tt.length, tt.last, now); got != tt.want {
			t.Errorf("%+v: got %v", tt, got)
		}
	}
}

func rawFrame(kind, flags byte, stream uint32, payload ...byte) []byte {
	b := []byte{byte(len(payload) >> 16), byte(len(payload) >> 8), byte(len(payload)), kind, flags}
	return append(binary.BigEndian.AppendUint32(b, stream), payload...)
}

func FuzzSettings(f *testing.F) {
	f.Add(rawFrame(frameSettings, 0, 0, 0, settingStreams, 0, 0, 0, 10, 0, settingWindow, 0, 1, 0, 0), 3)
	f.Add([]byte(clientPreface), 7)
	f.Fuzz(func(t *testing.T, b []byte, at int) {
		var whole, parts settings
		whole.feed(b)
		at = max(0, min(at, len(b)))
		parts.feed(b[:at])
		parts.feed(b[at:])
		if whole.done != parts.done || whole.ok != parts.ok || whole.streams != parts.streams || whole.window != parts.window {
			t.Errorf("%+v in one piece, %+v in two", whole, parts)
		}
		opened(b)
	})
}
