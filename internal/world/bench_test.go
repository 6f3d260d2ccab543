package world

import (
	"context"
	"net/http"
	"net/http/httptrace"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/autostart/process"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/demoapp"
	"github.com/ebbkit/ebb/internal/status"
)

// BenchmarkColdStart measures the first request to a sleeping app, to the first byte of its answer.
// overhead is that time less the machine's own boot, which lasts from the order to make the process
// to the instant at which it listens, as the machine says. Run it with -benchtime 100x.
func BenchmarkColdStart(b *testing.B) {
	const boot = 300 * time.Millisecond
	var overhead []time.Duration
	var ordered atomic.Int64
	for b.Loop() {
		p := newPlay(b, func(c *Config) {
			run := command(b, process.Config{Argv: []string{os.Args[0]}, Env: demoapp.Env(boot)})
			c.Driver = func(region string) (Driver, error) {
				d, err := run(region)
				return timed{d, &ordered}, err
			}
		})
		var first time.Time
		trace := &httptrace.ClientTrace{GotFirstResponseByte: func() { first = time.Now() }}
		req, err := http.NewRequestWithContext(httptrace.WithClientTrace(b.Context(), trace), "GET", p.url+"/", nil)
		if err != nil {
			b.Fatal(err)
		}
		p.until("the edge listens", func(s status.Snapshot) bool { return len(s.RTT) > 0 })
		start := time.Now()
		resp, err := p.client.Do(req)
		if err != nil {
			b.Fatal(err)
		}
		resp.Body.Close()
		ready, err := strconv.ParseInt(resp.Header.Get("X-Ready-At"), 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		after := first.Sub(time.Unix(0, ready))
		overhead = append(overhead, time.Unix(0, ordered.Load()).Sub(start)+after)
		p.end()
	}
	slices.Sort(overhead)
	b.ReportMetric(float64(overhead[len(overhead)/2])/1e6, "overhead-p50-ms")
	b.ReportMetric(float64(overhead[len(overhead)*99/100])/1e6, "overhead-p99-ms")
}

// timed records when a machine was ordered.
type timed struct {
	Driver
	ordered *atomic.Int64
}

func (d timed) Start(ctx context.Context, m balance.Machine) (machine.Booting, error) {
	d.ordered.Store(time.Now().UnixNano())
	return d.Driver.Start(ctx, m)
}
