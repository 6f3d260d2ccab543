package rtt_test

import (
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ebbkit/ebb/rtt"
)

// On a host where every processor has two goroutines that never rest, a timer in user space sees
// tens of milliseconds on loopback. The base must not.
func TestStarvedHost(t *testing.T) {
	var stop atomic.Bool
	var hogs sync.WaitGroup
	for range 2 * runtime.GOMAXPROCS(0) {
		hogs.Go(func() {
			for !stop.Load() {
			}
		})
	}
	defer hogs.Wait()
	defer stop.Store(true)

	const want = 12
	trace, wait := tables(t, func(tab *rtt.Table) bool {
		s, _ := tab.To("b")
		return s.Samples >= want
	})
	beat := make(chan struct{}, 1)
	trace.Sample = func(string, time.Duration) {
		select {
		case beat <- struct{}{}:
		default:
		}
	}
	a, peers := start(t, "a", "ra", func(c *rtt.Config) { c.Interval, c.Trace = 20*time.Millisecond, trace })
	b, _ := start(t, "b", "rb", nil)
	peers.add(b.Self())
	a.Refresh()

	user := pings(t, want, beat)
	wait()
	s, _ := a.Table().To("b")
	t.Logf("round trip on loopback, starved: timed in user space min %v, p50 %v, max %v; base %v (kernel=%v, %d samples, p90 %v)",
		user[0], user[len(user)/2], user[len(user)-1], s.Base, s.Kernel, s.Samples, s.P90)
	if !s.Kernel {
		t.Skip("this kernel stamps no packets")
	}
	if most := user[len(user)-1]; s.Base > most/4 {
		t.Errorf("base %v, and user space measured up to %v: want a quarter at most", s.Base, most)
	}
}

// pings times n round trips to an echo on loopback the way most programs do, one per beat, so
// that it cannot finish before the hogs have their first turn. It returns them sorted.
func pings(t *testing.T, n int, beat <-chan struct{}) []time.Duration {
	t.Helper()
	echo, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		buf := make([]byte, 100)
		for {
			n, from, err := echo.ReadFrom(buf)
			if err != nil {
				return
			}
			echo.WriteTo(buf[:n], from)
		}
	}()
	c, err := net.Dial("udp4", echo.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	var out []time.Duration
	buf := make([]byte, 88)
	for range n {
		<-beat
		begin := time.Now()
		if _, err := c.Write(buf); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(buf); err != nil {
			t.Fatal(err)
		}
		out = append(out, time.Since(begin))
	}
	slices.Sort(out)
	return out
}
