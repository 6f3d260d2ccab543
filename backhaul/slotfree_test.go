package backhaul

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/ebbkit/ebb/backhaul/internal/pool"
	"github.com/ebbkit/ebb/balance"
)

// endSeen is a ResponseWriter that calls seen before what tells the reader of an answer that there
// is no more.
type endSeen struct {
	http.ResponseWriter
	r    *http.Request
	left int64 // negative: nobody knows
	head bool  // there is no more than that
	seen func(*http.Request)
	over bool
}

func (w *endSeen) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *endSeen) WriteHeader(code int) {
	w.left = -1
	w.head = w.r.Method == "HEAD" || code == http.StatusNoContent
	if v := w.Header().Get("Content-Length"); v != "" && w.r.ProtoMajor == 1 && !w.head {
		fmt.Sscan(v, &w.left)
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *endSeen) Write(p []byte) (int, error) {
	if w.left -= int64(len(p)); w.left == 0 {
		w.end()
	}
	return w.ResponseWriter.Write(p)
}

func (w *endSeen) FlushError() error {
	if w.head || w.left == 0 {
		w.end()
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

func (w *endSeen) end() {
	if !w.over {
		w.over = true
		w.seen(w.r)
	}
}

// whenEnding has h serve, and calls seen before the end of each answer can be seen.
func whenEnding(h http.Handler, seen func(*http.Request)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e := &endSeen{ResponseWriter: w, r: r, left: -1, seen: seen}
		h.ServeHTTP(e, r)
		e.end() // the server writes every other end
	})
}

// Who has the whole answer finds the slot free, however the answer ends: the next request is not
// refused for the last one.
func TestTheSlotIsFreeBeforeTheEndIsSeen(t *testing.T) {
	answers := map[string]func(http.ResponseWriter){
		"empty":      func(http.ResponseWriter) {},
		"no content": func(w http.ResponseWriter) { w.WriteHeader(http.StatusNoContent) },
		"short":      func(w http.ResponseWriter) { io.WriteString(w, "ok") },
		"long": func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "300000")
			for range 3 {
				w.Write(make([]byte, 100_000))
			}
		},
		"chunked": func(w http.ResponseWriter) {
			io.WriteString(w, "a")
			w.(http.Flusher).Flush()
			io.WriteString(w, "b")
		},
		"trailers": func(w http.ResponseWriter) {
			w.Header().Set("Trailer", "X-Sum")
			io.WriteString(w, "ok")
			w.Header().Set("X-Sum", "1")
		},
	}
	for _, local := range []bool{true, false} {
		for _, speaks := range []string{"HTTP/1.1", "HTTP/2", "HTTP/1.1 and the machine HTTP/2"} {
			t.Run(fmt.Sprintf("local %v, %s", local, speaks), func(t *testing.T) {
				var r *rig
				check := func(where string, edge bool) func(*http.Request) {
					return func(q *http.Request) {
						if n := r.gates["m1"].InFlight(); n != 0 {
							t.Errorf("%s %s, %s: %d slots are taken", q.Method, q.URL, where, n)
						}
						if n := r.b.InFlight("web"); edge && n != 0 {
							t.Errorf("%s %s, %s: the edge counts %d", q.Method, q.URL, where, n)
						}
					}
				}
				r = newRig(
					t,
					rigConfig{
						app: balance.App{Limits: balance.Limits{Hard: 1}}, local: local, h2: speaks != "HTTP/1.1",
						wrapHop: func(h http.Handler) http.Handler {
							return whenEnding(h, check("at the edge", false))
						},
					},
				)
				r.front.Config.Handler = whenEnding(r.front.Config.Handler, check("at the client", true))
				r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					io.Copy(io.Discard, r.Body)
					answers[r.URL.Query().Get("answer")](w)
				}))
				client := r.front.Client()
				if speaks == "HTTP/1.1 and the machine HTTP/2" {
					tr := &http.Transport{}
					t.Cleanup(tr.CloseIdleConnections)
					client = &http.Client{Transport: tr}
				}
				for name := range answers {
					if name == "trailers" && local && speaks == "HTTP/1.1 and the machine HTTP/2" {
						continue // they may say that the machine failed
					}
					for _, method := range []string{"GET", "HEAD", "POST"} {
						t.Run(strings.ReplaceAll(name, " ", "-")+" to "+method, func(t *testing.T) {
							resp, _ := fetch(
								t, client,
								request(t, method, r.front.URL+"?answer="+strings.ReplaceAll(name, " ", "+"),
									strings.NewReader("hello")),
							)
							if resp.StatusCode >= 300 {
								t.Error(resp.Status)
							}
						})
					}
				}
			})
		}
	}
}

// As many clients as there are slots, each with one request at a time, are all served: without a
// waiting room, too.
func TestAsManyClientsAsSlotsAreAllServed(t *testing.T) {
	const clients = 30
	for _, h2 := range []bool{false, true} {
		for _, local := range []bool{true, false} {
			t.Run(fmt.Sprintf("local %v, h2 %v", local, h2), func(t *testing.T) {
				r := newRig(t,
					rigConfig{app: balance.App{Limits: balance.Limits{Hard: clients}}, local: local, h2: h2})
				r.serve("m1",
					http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }))
				r.front.Client().Transport.(*http.Transport).MaxIdleConnsPerHost = clients
				var wg sync.WaitGroup
				for range clients {
					wg.Go(func() {
						for range 30 {
							resp, body := fetch(t, r.front.Client(),
								request(t, "POST", r.front.URL, strings.NewReader("hello")))
							if resp.StatusCode != 200 {
								t.Error(resp.Status, body)
							}
						}
					})
				}
				wg.Wait()
			})
		}
	}
}

// Where nobody waits, only what is known refuses a request: not what this node makes of a reply
// that its other requests have outrun.
func TestAnEstimateRefusesNobodyWhoCannotWait(t *testing.T) {
	r := newRig(t, rigConfig{app: balance.App{Limits: balance.Limits{Hard: 4}}})
	g := r.serve("m1", says("one"))
	leave := fill(t, g, 4)
	old := g.Load()
	leave()
	res, err := r.b.Pick(balance.Request{App: "web"})
	if err != nil {
		t.Fatal(err)
	}
	late := old
	late.InFlight++ // with the one that it answers
	res.Observe(late)
	res.Release(balance.OutcomeDone)
	if _, err := r.b.Pick(balance.Request{App: "web"}); err == nil {
		t.Fatal("the reply says nothing")
	}
	if resp, body := fetch(t, r.front.Client(), request(t, "GET", r.front.URL, nil)); body != "one" {
		t.Error(resp.Status, body)
	}
}

// A stream that has come to its end has been answered, also where we had given it up meanwhile.
func TestAStreamThatHasEndedIsOverWhoeverCancelledIt(t *testing.T) {
	for _, whole := range []bool{true, false} {
		ctx, cancel := context.WithCancelCause(t.Context())
		s := &pool.Stream{Cancel: cancel}
		s.Wrote.Store(true)
		var body io.Reader = strings.NewReader("ok")
		if !whole {
			body = io.MultiReader(body, brokenReader{})
		}
		cancel(pool.ErrStreamOver)
		io.Copy(io.Discard, &pool.StreamBody{ReadCloser: io.NopCloser(body), S: s, Ctx: ctx})
		if s.Works() == whole {
			t.Errorf("whole %v: the machine works on it: %v", whole, s.Works())
		}
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }
