package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"

	"github.com/ebbkit/ebb/examples/fleet/internal/app"
	"github.com/ebbkit/ebb/examples/fleet/internal/town"
)

// result is the outcome of a request.
type result struct {
	id         string
	edge       *town.Process
	idempotent bool
	from, to   time.Time
	status     int   // 0: there was no answer
	err        error // nil: there was a complete answer
	dialed     bool  // the edge accepted the connection
	begun      bool  // the answer had begun
	said       string
}

// answered reports whether the app has answered.
func (r result) answered() bool { return r.err == nil && r.status == http.StatusOK }

// load sends requests to edges.
type load struct {
	edges  []*town.Process
	client *http.Client
	rand   *rand.Rand

	wg  sync.WaitGroup
	mu  sync.Mutex
	all []result
}

const (
	// answerWait is how long a client waits. A longer wait means that something is stuck.
	answerWait = 60 * time.Second
	// bodyMax bounds how much of an answer is read, in bytes.
	bodyMax = 4096
)

func newLoad(edges []*town.Process, seed uint64) *load {
	return &load{
		edges: edges, rand: rand.New(rand.NewPCG(seed, 1)),
		client: &http.Client{Timeout: answerWait, Transport: &http.Transport{
			MaxIdleConnsPerHost: 64, IdleConnTimeout: 10 * time.Second,
			DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		}},
	}
}

// run sends rate requests a second until ctx ends, then waits for the answers.
func (l *load) run(ctx context.Context, rate int) {
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			l.wg.Wait()
			l.client.CloseIdleConnections()
			return
		case <-tick.C:
		}
		r := result{
			id: fmt.Sprintf(
				"r%06d", i,
			), edge: l.edges[l.rand.IntN(len(l.edges))], idempotent: l.rand.IntN(4) > 0,
		}
		ms := l.rand.IntN(60)
		if l.rand.IntN(20) == 0 {
			ms = 500
		}
		l.wg.Go(func() {
			l.send(&r, ms)
			l.mu.Lock()
			defer l.mu.Unlock()
			l.all = append(l.all, r)
		})
	}
}

func (l *load) send(r *result, ms int) {
	r.from = time.Now()
	defer func() { r.to = time.Now() }()
	method, body := http.MethodGet, io.Reader(nil)
	if !r.idempotent {
		method, body = http.MethodPost, bytes.NewReader([]byte(r.id))
	}
	trace := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { r.dialed = true },
	})
	req, err := http.NewRequestWithContext(trace, method, fmt.Sprintf("http://%s/?ms=%d", r.edge.Address, ms), body)
	if err != nil {
		r.err = err
		return
	}
	req.Header.Set(app.HeaderID, r.id)
	resp, err := l.client.Do(req)
	if err != nil {
		r.err = errors.Unwrap(err)
		return
	}
	defer resp.Body.Close()
	r.begun, r.status = true, resp.StatusCode
	said, err := io.ReadAll(io.LimitReader(resp.Body, bodyMax))
	r.err = err
	if r.status != http.StatusOK {
		r.said = string(bytes.TrimSpace(said))
	}
}
