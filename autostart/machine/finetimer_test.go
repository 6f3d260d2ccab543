package machine

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/ebbkit/ebb/autostart/machine/internal/health"
	"github.com/ebbkit/ebb/balance"
)

func TestNapSleeps(t *testing.T) {
	n := newFineTimer()
	if n == nil {
		t.Skip("no finer timers here")
	}
	defer n.close()
	for _, d := range []time.Duration{1, 50 * time.Microsecond, 999 * time.Microsecond, 3 * time.Millisecond} {
		for range 3 { // it can be used again
			began := time.Now()
			if !n.sleep(d) {
				t.Fatalf("no sleep of %v", d)
			}
			if took := time.Since(began); took < d {
				t.Errorf("slept %v, want %v", took, d)
			}
		}
	}
}

// While machines are checked in the finest steps, other timers of the process are on time, and in
// the end no fine timer is left. With sleeping system calls a timer was late for as long as the
// steps were fine: 4 s.
func TestFineLooksHoldNobodyUp(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	l.Close()
	p := newProber(Check{Timeout: time.Minute})
	ctx, cancel := context.WithCancel(t.Context())
	woke := make(chan bool)
	ended := make(chan bool)
	// The steps stay fine for ever: the boot is always about to end.
	for range fineTimersMax + 1 {
		go func() {
			p.await(ctx, balance.Machine{Addr: closed}, time.Now(), health.Window{To: time.Hour}, nil)
			ended <- true
		}()
	}
	go func() {
		for range 20 {
			time.AfterFunc(5*time.Millisecond, func() { woke <- true })
			<-woke
		}
		cancel()
	}()
	for range fineTimersMax + 1 {
		<-ended
	}
	if len(p.fineTimers) != 0 {
		t.Errorf("%d nappers are left", len(p.fineTimers))
	}
}
