package machine

import (
	"context"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/boots"
	"github.com/ebbkit/ebb/autostart/machine/internal/health"
	"github.com/ebbkit/ebb/balance"
)

// BenchmarkReadiness measures over real sockets how long after a machine has begun to listen the
// prober knows it: with boots within a tenth of earlier ones, and with first boots. Its figures are
// the two percentiles, beside their targets, and how late the host's own timers are at the same
// percentile for a sleep of the same step: on a busy host, that is most of the delay. ns/op is the
// whole boot, which passes in real time: ask for one boot, as in -bench Readiness/boot=300ms.
func BenchmarkReadiness(bb *testing.B) {
	for _, boot := range []time.Duration{20 * time.Millisecond, 300 * time.Millisecond, time.Second, 5 * time.Second} {
		for _, learned := range []bool{false, true} {
			bb.Run(fmt.Sprintf("boot=%v/learned=%v", boot, learned), func(bb *testing.B) { benchReadiness(bb, boot, learned) })
		}
	}
}

func benchReadiness(bb *testing.B, boot time.Duration, learned bool) {
	var known boots.Boots
	if learned {
		for i := range 32 {
			known.Learn(boot * time.Duration(90+20*i/32) / 100)
		}
	}
	p := newProber(Check{Timeout: time.Minute})
	var late, host []time.Duration
	n := 0
	for bb.Loop() {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			bb.Fatal(err)
		}
		addr := l.Addr().String()
		l.Close()
		// Boots differ by a tenth, and by parts of a step, so that none is in step with the looks.
		takes := boot*time.Duration(90+n*7%20)/100 + time.Duration(n*137%1000)*time.Microsecond
		n++
		ready := make(chan time.Time, 1)
		began := time.Now()
		time.AfterFunc(takes-2*time.Millisecond, func() {
			// else it becomes ready when the prober wakes, with the runtime's timers
			if n := newFineTimer(); n != nil {
				n.sleep(max(1, takes-time.Since(began)))
				n.close()
			}
			l, err := net.Listen("tcp", addr)
			ready <- time.Now()
			if err == nil {
				defer l.Close()
				if c, err := l.Accept(); err == nil {
					c.Close()
				}
			}
		})
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		if _, ok := p.await(ctx, balance.Machine{Addr: addr}, began, health.Likely(&known), nil); !ok {
			bb.Fatal("not found")
		}
		seen := time.Now()
		cancel()
		host = append(host, oversleep())
		late = append(late, max(0, seen.Sub(<-ready)))
	}
	slices.Sort(late)
	slices.Sort(host)
	us := func(d time.Duration) float64 { return float64(d.Microseconds()) }
	bb.ReportMetric(us(late[len(late)/2]), "median-us")
	bb.ReportMetric(us(late[(len(late)-1)*99/100]), "p99-us")
	bb.ReportMetric(us(host[(len(host)-1)*99/100]), "host-p99-us")
	bb.ReportMetric(us(max(time.Millisecond, boot/500)), "bound-us")
}

// oversleep returns how much longer than one step the host lets us sleep.
func oversleep() time.Duration {
	n := newFineTimer()
	if n == nil {
		return 0
	}
	defer n.close()
	began := time.Now()
	n.sleep(health.LikelyMin)
	return time.Since(began) - health.LikelyMin
}
