//go:build unix

package backhaul

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/balance"
)

func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// vias are the ways to one and the same app.
func vias(tb testing.TB) (names []string, urls map[string]string) {
	app := startApp(tb)
	tuned := &http.Transport{MaxIdleConns: 1000, MaxIdleConnsPerHost: 1000, IdleConnTimeout: 90 * time.Second, DisableCompression: true}
	rp := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:   func(p *httputil.ProxyRequest) { p.Out.URL.Scheme, p.Out.URL.Host = "http", app },
		Transport: tuned,
	})
	tb.Cleanup(rp.Close)
	hop := newRig(tb, rigConfig{})
	hop.host("m1", app)
	local := newRig(tb, rigConfig{local: true})
	local.host("m1", app)
	return []string{"direct", "reverseproxy", "edge+worker", "embedded"}, map[string]string{
		"direct": "http://" + app, "reverseproxy": rp.URL, "edge+worker": hop.front.URL, "embedded": local.front.URL,
	}
}

// BenchmarkHop measures what a warm request costs this process, in which the proxies run; app and load generator are
// processes of their own. 32 connections.
func BenchmarkHop(b *testing.B) { benchmarkHop(b) }

// BenchmarkHopPost is the same with a POST of a small form.
func BenchmarkHopPost(b *testing.B) {
	benchmarkHop(b, loadBody+": 200", "Content-Type: application/x-www-form-urlencoded")
}

func benchmarkHop(b *testing.B, headers ...string) {
	names, urls := vias(b)
	for _, via := range names {
		b.Run("via="+via, func(b *testing.B) {
			load(b, urls[via], 500, 32, headers...)
			before := cpu()
			b.ReportAllocs()
			b.ResetTimer()
			load(b, urls[via], b.N, 32, headers...)
			b.ReportMetric(float64(cpu()-before)/float64(b.N)/1000, "cpu-µs/op")
		})
	}
	// The ways take turns, so that noise meets all of them; the median of the ratios is reported.
	b.Run("ratio", func(b *testing.B) {
		const n = 4000
		ratios := map[string][]float64{}
		for range max(5, min(b.N, 15)) {
			cost := map[string]float64{}
			for _, via := range names[1:] {
				before := cpu()
				load(b, urls[via], n, 32, headers...)
				cost[via] = float64(cpu() - before)
			}
			for _, via := range names[2:] {
				ratios[via] = append(ratios[via], cost[via]/cost["reverseproxy"])
			}
		}
		for via, r := range ratios {
			slices.Sort(r)
			b.ReportMetric(r[len(r)/2], via+"/reverseproxy")
		}
	})
}

// BenchmarkBounce measures what a bounce costs the owner, beside a request that it serves.
func BenchmarkBounce(b *testing.B) {
	r := newRig(b, rigConfig{app: balance.App{Limits: balance.Limits{Hard: 1}}})
	r.host("full", startApp(b)).Enter(0, 0, 0)
	g := r.host("free", startApp(b))
	if err := g.SetLimits(balance.Limits{}); err != nil {
		b.Fatal(err)
	}
	const n = 4000
	cost := func(id string) float64 {
		before := cpu()
		load(b, r.hop.URL, n, 32, loadKey+": "+testKey, hop.HeaderTo+": web;"+id+";0;edge")
		return float64(cpu() - before)
	}
	cost("free")
	var ratios []float64
	for range max(5, min(b.N, 15)) {
		ratios = append(ratios, cost("full")/cost("free"))
	}
	slices.Sort(ratios)
	b.ReportMetric(ratios[len(ratios)/2], "bounced/served")
}
