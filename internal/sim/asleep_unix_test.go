//go:build unix

package sim

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/autostart"
	owning "github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale"
	"github.com/ebbkit/ebb/downscale/policy"
)

// readyAtOnce is a driver whose machines are ready when they have been started, and whose exits it
// reports.
type readyAtOnce struct {
	mu    sync.Mutex
	watch func(owning.Exit)
}

func (d *readyAtOnce) Start(context.Context, balance.Machine) (owning.Booting, error) {
	return owning.Booting{Addr: "127.0.0.1:9"}, nil
}

func (d *readyAtOnce) Stop(_ context.Context, m balance.Machine) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.watch != nil {
		d.watch(exitOf(m))
	}
	return nil
}

func (d *readyAtOnce) Suspend(context.Context, balance.Machine) error { return nil }

func (d *readyAtOnce) Watch(ctx context.Context, exited func(owning.Exit)) error {
	d.mu.Lock()
	d.watch = exited
	d.mu.Unlock()
	<-ctx.Done()
	return nil
}

// A fleet of sleeping apps costs only the memory of their rows: an app that was woken and sleeps
// again holds no goroutine, and nobody decides about it. With -v and -full the test prints the cost
// of 5,000 apps.
func TestSleepingApps(t *testing.T) {
	apps, machines := 200, 2
	if *full {
		apps, machines = 5000, 2
	}
	const minutes = 10
	synctest.Test(t, func(t *testing.T) {
		before := runtime.NumGoroutine()
		crowd(4 * apps)
		heap := heapInUse()
		fleet, err := balance.NewFleet(balance.FleetConfig{Node: "here", Region: "home"})
		if err != nil {
			t.Fatal(err)
		}
		app := func(n int) balance.AppID { return balance.AppID(fmt.Sprint("app-", n)) }
		for n := range apps {
			row := balance.App{
				ID: app(n), Autostart: true, Autostop: balance.AutostopStop,
				Limits: balance.Limits{Soft: 20, Hard: 50}, KeepAlive: time.Minute,
			}
			if err := fleet.Apply(balance.PutApp{App: row}); err != nil {
				t.Fatal(err)
			}
			for i := range machines {
				if _, err := fleet.Host(balance.Machine{ID: balance.MachineID(fmt.Sprint("m", n, "-", i)), App: row.ID, Region: "home"}); err != nil {
					t.Fatal(err)
				}
			}
		}
		driver := &readyAtOnce{}
		healthy := owning.Check{Func: func(context.Context, balance.Machine) error { return nil }}
		balancer, err1 := balance.New(fleet, balance.Config{})
		starter, err2 := owning.NewStarter(fleet, driver, owning.Config{Check: healthy})
		waiting, err3 := autostart.New(balancer, starter, autostart.Config{})
		asked := map[balance.AppID]int{}
		scaler, err4 := downscale.New(
			fleet, driver,
			downscale.Config{Policy: func(id balance.AppID) policy.Policy {
				d, err := policy.NewDecider(policy.Config{})
				if err != nil {
					t.Error(err)
				}
				return &counted{id, asked, d}
			}},
		)
		for _, err := range []error{err1, err2, err3, err4} {
			if err != nil {
				t.Fatal(err)
			}
		}
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		for _, run := range []func(context.Context) error{balancer.Run, starter.Run, waiting.Run, scaler.Run} {
			running.Go(func() {
				if err := run(ctx); err != nil {
					t.Error(err)
				}
			})
		}
		time.Sleep(time.Second)
		synctest.Wait()
		runs := runtime.NumGoroutine() - before
		t.Logf(
			"%d apps of %d machines asleep: %.1f KiB an app, %d goroutines", apps, machines,
			float64(heapInUse()-heap)/1024/float64(apps), runs,
		)
		began := cpuTime()
		time.Sleep(minutes * time.Minute)
		t.Logf("never used: %.3f %% of a core", 100*float64(cpuTime()-began)/float64(minutes*time.Minute))

		for n := range apps {
			slot, err := waiting.Acquire(ctx, &balance.Request{App: app(n)})
			if err != nil {
				t.Fatal(err)
			}
			slot.Release(balance.OutcomeDone)
		}
		time.Sleep(10 * time.Minute) // the keep-alive, and more
		synctest.Wait()
		for n := range apps {
			rows, _ := fleet.App(app(n))
			for m := range rows.All() {
				if m.State != balance.StateStopped {
					t.Fatalf("%s is %v", m.ID, m.State)
				}
			}
		}
		if more := runtime.NumGoroutine() - before - runs; more > 0 {
			t.Errorf("%d goroutines more after %d apps were woken and sleep again", more, apps)
		}
		clear(asked)
		began = cpuTime()
		time.Sleep(minutes * time.Minute)
		synctest.Wait()
		t.Logf(
			"used and asleep again: %.3f %% of a core, %.1f KiB an app",
			100*float64(cpuTime()-began)/float64(minutes*time.Minute),
			float64(heapInUse()-heap)/1024/float64(apps),
		)
		if len(asked) > 0 {
			t.Errorf(
				"%d sleeping apps were decided about in %d minutes in which nothing happened", len(asked),
				minutes,
			)
		}
		// An app that wakes is looked at again.
		slot, err := waiting.Acquire(ctx, &balance.Request{App: app(0)})
		if err != nil {
			t.Fatal(err)
		}
		slot.Release(balance.OutcomeDone)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if n := asked[app(0)]; n == 0 {
			t.Error("an app that was woken is not decided about")
		}
		if rows, _ := fleet.App(app(0)); rows != nil {
			for m := range rows.All() {
				if m.State != balance.StateStopped {
					t.Errorf("%s, which was woken once more, is %v", m.ID, m.State)
				}
			}
		}
		stop()
		running.Wait()
	})
}

func exitOf(m balance.Machine) owning.Exit {
	return owning.Exit{App: m.App, ID: m.ID, Epoch: m.Epoch, Reason: "stopped"}
}

// crowd runs as many goroutines at once as there will be while all apps are awake: the runtime
// keeps half a KiB of each for reuse. That is not memory of a sleeping app.
func crowd(n int) {
	var all sync.WaitGroup
	gate := make(chan struct{})
	for range n {
		all.Go(func() { <-gate })
	}
	close(gate)
	all.Wait()
}

// cpuTime returns the CPU time that this process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func heapInUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// counted counts the decisions about an app.
type counted struct {
	id      balance.AppID
	asked   map[balance.AppID]int
	decider *policy.Decider
}

func (c *counted) Decide(now time.Time, s policy.Situation) []policy.Decision {
	c.asked[c.id]++
	return c.decider.Decide(now, s)
}
