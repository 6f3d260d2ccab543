//go:build linux || darwin

package process_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/autostart/process"
)

// Shutdown lets machines end by themselves, resumes suspended ones, and leaves no goroutine;
// afterwards nothing starts any more.
func TestShutdown(t *testing.T) {
	d, err := process.New(config("polite"))
	if err != nil {
		t.Fatal(err)
	}
	const machines = 4
	for i := range machines {
		m := aMachine()
		start(t, d, &m)
		get(t, m, "/")
		if i == 0 {
			if err := d.Suspend(t.Context(), m); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := d.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range machines {
		if e := nextExit(t, d); e.Code != 42 {
			t.Errorf("exit %+v, want the status 42 of its own", e)
		}
	}
	if _, err := d.Start(t.Context(), aMachine()); !errors.Is(err, process.ErrClosed) {
		t.Errorf("Start after Shutdown: %v, want ErrClosed", err)
	}
	if err := d.Close(); err != nil {
		t.Errorf("Close after Shutdown: %v", err)
	}
	noGoroutines(t)
}

// Close comes while machines start, die and stop: none is left, and each start has one exit.
func TestCloseDuringStarts(t *testing.T) {
	c := config("serve")
	c.StopTimeout = -1
	d, err := process.New(c)
	if err != nil {
		t.Fatal(err)
	}
	var started atomic.Int64
	enough := make(chan struct{})
	var once sync.Once
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			m := aMachine()
			for {
				m.Epoch++
				_, err := d.Start(context.Background(), m)
				if errors.Is(err, process.ErrClosed) {
					return
				}
				if err != nil {
					t.Errorf("Start: %v", err)
					return
				}
				if started.Add(1) == 20 {
					once.Do(func() { close(enough) })
				}
				if m.Epoch%2 == 0 {
					_ = d.Suspend(context.Background(), m)
				}
				if err := d.Stop(context.Background(), m); err != nil {
					t.Errorf("Stop: %v", err)
				}
			}
		})
	}
	<-enough
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	all.Wait()
	noGoroutines(t)
	for range started.Load() {
		nextExit(t, d)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.Watch(ctx, func(e machine.Exit) { t.Errorf("one exit too many: %+v", e) }); err != nil {
		t.Error(err)
	}
}

// noGoroutines waits until no goroutine of the package is left, except those of tests.
func noGoroutines(t *testing.T) {
	t.Helper()
	var left string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-time.After(time.Millisecond) {
		left = ""
		stacks := make([]byte, 1<<20)
		for stack := range strings.SplitSeq(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
			if strings.Contains(stack, "autostart/process.") ||
				strings.Contains(stack, "process/internal/guard.") {
				left += stack + "\n\n"
			}
		}
		if left == "" {
			return
		}
	}
	t.Errorf("goroutines are left:\n%s", left)
}
