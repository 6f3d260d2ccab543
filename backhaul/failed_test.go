package backhaul

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// blamed returns the machines that the edge holds something against: failures count as load.
func (r *rig) blamed() (ids []balance.MachineID) {
	for m, c := range r.b.Loads("web") {
		if c.Load != 0 {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

func TestFailed(t *testing.T) {
	grpc := func(code string) http.Header { return http.Header{"Grpc-Status": {code}} }
	for _, tt := range []struct {
		status int
		header http.Header
		want   bool
	}{
		{200, nil, false}, {101, nil, false}, {302, nil, false}, {404, nil, false}, {429, nil, false}, {499, nil, false},
		{500, nil, true}, {502, nil, true}, {503, nil, true}, {504, nil, true},
		{501, nil, false}, {505, nil, false}, {507, nil, false}, // of the request, not the machine
		{503, http.Header{"Retry-After": {"3"}}, false}, // it sheds load
		{500, http.Header{"Retry-After": {"3"}}, true},
		{200, grpc("0"), false}, {200, grpc("5"), false}, {200, grpc("13"), false}, {200, grpc("14"), true},
		{0, nil, false}, {0, grpc("0"), false}, {0, grpc("14"), true}, // trailers
	} {
		if got := Failed(tt.status, tt.header); got != tt.want {
			t.Errorf("%d %v: got %v", tt.status, tt.header, got)
		}
	}
}

// An answer that tells of a failure goes to the client as it is and is tried nowhere else; and it counts against its machine,
// over the hop as locally, by its head as by its trailer.
func TestAnAnswerCanTellOfAFailure(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		for _, local := range []bool{false, true} {
			for _, tt := range []struct {
				path   string
				failed bool
				calls  []string // of Config.Failed
			}{
				{"/200", false, []string{"200"}},
				{"/404", false, []string{"404"}},
				{"/500", true, []string{"500"}},
				{"/503", true, []string{"503"}},
				{"/503/later", false, []string{"503"}},
				{"/200/trailer/0", false, []string{"200", "0 grpc-status 0"}},
				{"/200/trailer/14", true, []string{"200", "0 grpc-status 14"}},
				{"/500/trailer/0", true, []string{"500"}},
				{"/200/head/14", true, []string{"200 grpc-status 14"}},
			} {
				t.Run(fmt.Sprintf("h2=%v/local=%v%s", h2, local, tt.path), func(t *testing.T) {
					var l log
					var mu sync.Mutex
					var calls []string
					r := newRig(
						t,
						rigConfig{
							app: roomy, local: local, h2: h2,
							config: Config{Trace: l.trace(), Failed: func(status int, h http.Header) bool {
								mu.Lock()
								defer mu.Unlock()
								s := fmt.Sprint(status)
								if g := h.Get("Grpc-Status"); g != "" {
									s += " grpc-status " + g
								}
								calls = append(calls, s)
								return Failed(status, h)
							}},
						},
					)
					var executed atomic.Int32
					answers := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						executed.Add(1)
						var status int
						var rest string
						fmt.Sscanf(strings.ReplaceAll(r.URL.Path, "/", " "), "%d %s", &status, &rest)
						_, code, _ := strings.Cut(r.URL.Path, rest+"/")
						switch rest {
						case "later":
							w.Header().Set("Retry-After", "1")
						case "head":
							w.Header().Set("Grpc-Status", code)
						case "trailer":
							w.Header().Set("Trailer", "Grpc-Status")
						}
						w.WriteHeader(status)
						if rest != "head" {
							io.WriteString(w, "the app's words")
						}
						if rest == "trailer" {
							w.Header().Set("Grpc-Status", code)
						}
					})
					r.serve("m1", answers)
					r.serve("m2", answers)
					resp, body := fetch(t, r.front.Client(), request(t, "GET", r.front.URL+tt.path, nil))
					if !strings.HasPrefix(tt.path[1:], fmt.Sprint(resp.StatusCode)) ||
						body != "the app's words" && !strings.Contains(tt.path, "head") ||
						executed.Load() != 1 {
						t.Errorf("the client got %d %q, executed %d times", resp.StatusCode, body, executed.Load())
					}
					if d := l.last(t, 1); (d.Outcome == balance.OutcomeError) != tt.failed || d.Err != nil ||
						d.Cause != "" ||
						d.Tries != 1 {
						t.Errorf("done: %+v", d)
					}
					r.quiet()
					if ids := r.blamed(); (len(ids) == 1) != tt.failed || len(ids) > 1 {
						t.Errorf("counted against %v", ids)
					}
					mu.Lock()
					defer mu.Unlock()
					if !slices.Equal(calls, tt.calls) {
						t.Errorf("Failed was called with %v, want %v", calls, tt.calls)
					}
				})
			}
		}
	}
}

// A client that leaves in the middle of an answer that tells of a failure does not unsay it.
func TestAFailureThatWasToldStays(t *testing.T) {
	r := newRig(t, rigConfig{app: roomy, local: true})
	r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		io.WriteString(w, strings.Repeat("x", 100<<10))
	}))
	resp, err := r.transport.RoundTrip(request(t, "GET", "http://web/", nil))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	r.quiet()
	if ids := r.blamed(); len(ids) != 1 {
		t.Errorf("counted against %v", ids)
	}
}

// A machine that answers errors at once looks idle, and gets next to nothing all the same.
func TestAMachineThatAnswersErrorsAttractsNobody(t *testing.T) {
	for _, local := range []bool{false, true} {
		t.Run(fmt.Sprint("local=", local), func(t *testing.T) {
			r := newRig(
				t, rigConfig{app: balance.App{Limits: balance.Limits{Soft: 10, Hard: 20}}, local: local},
			)
			var sick atomic.Int32
			r.serve("m1", says("well"))
			r.serve("m2", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				sick.Add(1)
				w.WriteHeader(http.StatusInternalServerError)
			}))
			var clients sync.WaitGroup
			const n = 400
			var sent atomic.Int32
			at := time.Unix(1000, 0)
			var ticks sync.Mutex
			for range 4 {
				clients.Go(func() {
					for {
						k := sent.Add(1)
						if k > n {
							return
						}
						if k%4 == 0 { // forty requests a second
							ticks.Lock()
							at = at.Add(100 * time.Millisecond)
							r.b.Tick(at)
							ticks.Unlock()
						}
						resp, err := r.transport.RoundTrip(request(t, "GET", "http://web/", nil))
						if err != nil {
							t.Error(err)
							return
						}
						io.Copy(io.Discard, resp.Body)
						resp.Body.Close()
					}
				})
			}
			clients.Wait()
			if got := sick.Load(); got > n/8 {
				t.Errorf("%d of %d requests went to the machine that fails", got, n)
			}
			r.quiet()
		})
	}
}
