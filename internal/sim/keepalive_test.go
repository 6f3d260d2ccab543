package sim

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"text/tabwriter"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale"
)

// habit is the usage pattern of an app: how long it is until the next request.
type habit struct {
	name string
	next func(r *rng, sinceMidnight time.Duration) time.Duration
}

func habits() []habit {
	between := func(r *rng, a, b time.Duration) time.Duration { return a + time.Duration(r.float64()*float64(b-a)) }
	steady := func(a, b time.Duration) func(*rng, time.Duration) time.Duration {
		return func(r *rng, _ time.Duration) time.Duration { return between(r, a, b) }
	}
	return []habit{
		{"a job every 6 min", steady(350*time.Second, 370*time.Second)},
		{"a visitor every hour", steady(50*time.Minute, 70*time.Minute)},
		{"a check every 40 s by day", func(r *rng, at time.Duration) time.Duration {
			if at > 18*time.Hour {
				return 14 * time.Hour // until eight
			}
			return between(r, 35*time.Second, 45*time.Second)
		}},
		{"people, one in 2 min", func(r *rng, _ time.Duration) time.Duration {
			return time.Duration(r.exp() * float64(2*time.Minute))
		}},
	}
}

// keptAlive is the result of two days of an app with one machine, of which the second counts.
type keptAlive struct {
	cold  int           // requests that found it asleep
	awake time.Duration // of the machine
}

// TestKeepAliveQuality compares a learned keep-alive with the usual one, through the real shell,
// and prints both. The learned one must never cost many more cold starts, and must save nearly all
// where that is possible.
func TestKeepAliveQuality(t *testing.T) {
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "used by\tcold: usual\tlearned\tawake: usual\tlearned\t")
	of := map[string][2]keptAlive{}
	for _, h := range habits() {
		pair := [2]keptAlive{keepAlive(t, h, nil), keepAlive(t, h, &downscale.Habits{})}
		of[h.name] = pair
		fmt.Fprintf(w, "%s\t%d\t%d\t%.1f h\t%.1f h\t\n", h.name, pair[0].cold, pair[1].cold, pair[0].awake.Hours(), pair[1].awake.Hours())
	}
	w.Flush()
	t.Logf("a day of one machine, keep-alive 5 min:\n%s", &table)
	for name, pair := range of {
		if usual, learned := pair[0], pair[1]; learned.cold > usual.cold+5 {
			t.Errorf("%s: %d cold starts where usually there are %d", name, learned.cold, usual.cold)
		}
	}
	if pair := of["a job every 6 min"]; pair[0].cold < 200 || pair[1].cold > 0 {
		t.Errorf("a job every 6 min finds its app asleep %d times, and %d times when that is learned; want nearly always, and never", pair[0].cold, pair[1].cold)
	}
	if pair := of["a visitor every hour"]; pair[1] != pair[0] {
		t.Errorf("an app with hours of pause: %+v, and usually %+v; want the same", pair[1], pair[0])
	}
	if pair := of["a check every 40 s by day"]; pair[1].awake > pair[0].awake {
		t.Errorf("awake for %v, and usually for %v", pair[1].awake, pair[0].awake)
	}
}

func keepAlive(t *testing.T, h habit, idles *downscale.Habits) (day keptAlive) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f, err := balance.NewFleet(balance.FleetConfig{Node: "n", Region: dayRegion})
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Apply(balance.PutApp{App: balance.App{ID: app, Autostop: balance.AutostopStop}}); err != nil {
			t.Fatal(err)
		}
		gate, err := f.Host(balance.Machine{ID: "m", App: app, Region: dayRegion})
		if err != nil {
			t.Fatal(err)
		}
		midnight := time.Now()
		var (
			mu    sync.Mutex
			up    time.Time     // since when the machine is awake, or counted as awake; zero while it sleeps
			awake time.Duration // before that
		)
		count := func(next time.Time) {
			mu.Lock()
			defer mu.Unlock()
			if !up.IsZero() {
				awake += time.Since(up)
			}
			up = next
		}
		c := downscale.Config{Every: 5 * time.Second, Trace: downscale.Trace{Stopped: func(balance.Machine, time.Duration) { count(time.Time{}) }}}
		if idles != nil {
			c.Habits = idles
		}
		down, err := downscale.New(f, instant{}, c)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- down.Run(ctx) }()
		r := newRng(*seed, forWork, 0)
		for n := range 2 {
			cold := 0
			for time.Since(midnight) < time.Duration(n+1)*24*time.Hour {
				if gate.State() != balance.StateStarted {
					cold++
					token, answer := gate.Start(gate.Load().Epoch)
					if answer != balance.StartAccepted {
						t.Errorf("start: %v", answer)
						break
					}
					count(time.Now())
					time.Sleep(dayBoot * time.Second)
					gate.Ready(token)
				}
				if _, bounce := gate.Enter(0, 0, 0); bounce != balance.BounceNone {
					t.Errorf("bounced: %v", bounce)
					break
				}
				time.Sleep(time.Second)
				gate.Leave()
				time.Sleep(h.next(r, time.Since(midnight)%(24*time.Hour)))
			}
			next := time.Time{}
			if gate.State() == balance.StateStarted {
				next = time.Now()
			}
			count(next)
			mu.Lock()
			day, awake = keptAlive{cold, awake}, 0
			mu.Unlock()
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return day
}

// instant is a driver that needs no time.
type instant struct{}

func (instant) Stop(context.Context, balance.Machine) error    { return nil }
func (instant) Suspend(context.Context, balance.Machine) error { return nil }
