package sim

import (
	"testing"
	"time"
)

// BenchmarkRun runs a small fleet: ns/op is the wall time of one request, everything included.
func BenchmarkRun(b *testing.B) {
	for _, rule := range []Rule{Balanced(ours, nil), TwoNearest(), Oracle()} {
		b.Run("rule="+rule.Name, func(b *testing.B) {
			w := World{Name: "bench", Regions: Uniform(2, 10, 3), Slots: 2, Work: Exponential(50 * ms), Load: 0.8, Limits: limits(6)}
			perSecond := 0.8 * 20 * 2 / 0.05
			w.Length = max(sec, time.Duration(float64(b.N)/perSecond*float64(sec)))
			b.ReportAllocs()
			mustRun(b, w, rule, 1)
		})
	}
}
