package autostart

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/waitroom"
	"github.com/ebbkit/ebb/balance"
)

func TestBoundsByBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, balance.App{Autostart: true, BootHint: 5 * sec}, Config{}, boot{takes: 5 * sec})
		w.a.occupancy.bounds.bytes = 10_000
		w.run()
		defer w.stop()
		a := w.park(t.Context(), &balance.Request{App: "web", Held: 6000 - requestBytes})
		_, err := w.a.Acquire(t.Context(), &balance.Request{App: "web", Held: 6000 - requestBytes})
		class(t, err, ErrCrowded, true)
		if !strings.Contains(err.Error(), "1 wait with 6000 bytes") {
			t.Errorf("error %v", err)
		}
		b := w.park(t.Context(), &balance.Request{App: "web"})
		// who returns is no arrival
		back := w.park(t.Context(), &balance.Request{App: "web", Held: 6000 - requestBytes, Place: 1})
		hasNot(t, b)
		time.Sleep(6 * sec)
		for _, c := range []<-chan result{a, back} {
			r := has(t, c)
			r.slot.Release(balance.OutcomeDone)
		}
		if r := has(t, b); r.err == nil {
			r.slot.Release(balance.OutcomeDone)
		}
		if n, bytes := w.a.occupancy.n.Load(), w.a.occupancy.bytes.Load(); n != 0 || bytes != 0 {
			t.Errorf("%d seats and %d bytes are left behind", n, bytes)
		}
	})
}

// A body that has been read counts as what its request holds.
func TestBodiesThatWaitAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, balance.App{Autostart: true, BootHint: 5 * sec}, Config{}, boot{takes: 5 * sec})
		w.a.occupancy.bounds.bytes = 10_100
		w.run()
		defer w.stop()
		a := w.park(t.Context(), &balance.Request{App: "web", Held: 8000})
		_, err := w.a.Acquire(t.Context(), &balance.Request{App: "web", Held: 8000})
		class(t, err, ErrCrowded, true)
		_, err = w.a.Acquire(t.Context(), &balance.Request{App: "web", Held: 100})
		class(t, err, ErrCrowded, true)
		b := w.park(t.Context(), &balance.Request{App: "web", Held: 50})
		time.Sleep(6 * sec)
		for _, c := range []<-chan result{a, b} {
			r := has(t, c)
			r.slot.Release(balance.OutcomeDone)
		}
		if n, bytes := w.a.occupancy.n.Load(), w.a.occupancy.bytes.Load(); n != 0 || bytes != 0 {
			t.Errorf("%d seats and %d bytes are left behind", n, bytes)
		}
	})
}

func TestFloodStarvesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(
			t, balance.App{Autostart: true}, Config{MaxParked: 100, MaxWait: -1}, boot{never: true},
		)
		w.a.occupancy.bounds.all = 12
		for _, app := range []balance.AppID{"a", "b", "c"} {
			w.boots[balance.MachineID(app)] = boot{never: true}
			w.fleet.Apply(balance.PutApp{App: balance.App{ID: app, Autostart: true}})
			w.fleet.Host(balance.Machine{ID: balance.MachineID(app), App: app, Region: "nrt"})
		}
		w.run()
		defer w.stop()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		flood := func(app balance.AppID, n int) {
			for range n {
				w.park(ctx, &balance.Request{App: app})
			}
		}
		parked := func() string { return fmt.Sprint(w.a.Parked("a"), w.a.Parked("b"), w.a.Parked("c")) }
		for _, step := range []struct {
			app  balance.AppID
			n    int
			want string
		}{
			{"a", 20, "12 0 0"}, {"b", 1, "11 1 0"}, {"b", 20, "6 6 0"}, {"a", 20, "6 6 0"}, {"c", 2, "5 5 2"}, {"c", 20, "4 4 4"}, {"a", 9, "4 4 4"},
		} {
			if flood(step.app, step.n); parked() != step.want {
				t.Fatalf("after %d of %s: %s wait, want %s", step.n, step.app, parked(), step.want)
			}
		}
		if n, apps := w.a.occupancy.n.Load(), w.a.occupancy.occupied.Load(); n != 12 || apps != 3 {
			t.Errorf("%d seats for %d apps, want 12 for 3", n, apps)
		}
	})
}

// One large request displaces a bounded number of small ones, and each of these is told.
func TestWhoIsDisplacedIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, balance.App{Autostart: true}, Config{MaxWait: -1}, boot{never: true})
		w.a.occupancy.bounds.bytes = 40 * requestBytes
		w.run()
		defer w.stop()
		var small []<-chan result
		for range 40 {
			small = append(small, w.park(t.Context(), &balance.Request{App: "web", Tenant: "a"}))
		}
		large := w.park(t.Context(), &balance.Request{App: "web", Tenant: "b", Held: 30 * requestBytes})
		class(t, has(t, large).err, ErrCrowded, true)
		told := 0
		for _, c := range small {
			select {
			case r := <-c:
				class(t, r.err, ErrCrowded, true)
				told++
			default:
			}
		}
		if waits := w.a.Parked("web"); told != evictionsMax || told+waits != len(small) {
			t.Errorf("%d were told and %d wait, of %d", told, waits, len(small))
		}
	})
}

func TestFloodOfBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, balance.App{Autostart: true}, Config{MaxWait: -1}, boot{never: true})
		w.a.occupancy.bounds.bytes, w.a.occupancy.bounds.allBytes = -1, 100_000
		w.boots["b"] = boot{never: true}
		w.fleet.Apply(balance.PutApp{App: balance.App{ID: "b", Autostart: true}})
		w.fleet.Host(balance.Machine{ID: "b", App: "b", Region: "nrt"})
		w.run()
		defer w.stop()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for range 30 {
			w.park(ctx, &balance.Request{App: "web", Held: 5000 - requestBytes})
		}
		big := w.park(ctx, &balance.Request{App: "b", Held: 40_000 - requestBytes})
		hasNot(t, big)
		if a := w.a.Parked("web"); a != 12 {
			t.Errorf("%d of 5 kB wait beside one of 40 kB, want 12", a)
		}
		huge := w.park(ctx, &balance.Request{App: "b", Held: 90_000 - requestBytes})
		class(t, has(t, huge).err, ErrCrowded, true)
		if a := w.a.Parked("web"); a != 12 {
			t.Errorf("one that is too big displaced %d", 12-a)
		}
	})
}

func TestSlowStartLetsThemInByWaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		app := balance.App{Autostart: true, SlowStart: 2 * sec, Limits: balance.Limits{Hard: 20}}
		w := newWorld(
			t, app, Config{}, boot{takes: 5 * sec},
		)
		w.run()
		defer w.stop()
		var cs []<-chan result
		for range 30 {
			cs = append(cs, w.park(t.Context(), &balance.Request{App: "web"}))
		}
		time.Sleep(5 * sec) // ready
		for _, st := range []struct {
			after time.Duration
			in    int
		}{{tickEvery, 5}, {sec / 2, 5}, {sec / 2, 10}, {sec / 2, 10}, {sec / 2, 20}, {10 * sec, 20}} {
			time.Sleep(st.after)
			if n := w.b.InFlight("web"); n != st.in {
				t.Fatalf("%v later %d are in, want %d", st.after, n, st.in)
			}
		}
		for _, c := range cs[:20] {
			r := has(t, c)
			r.slot.Release(balance.OutcomeDone)
		}
		for _, c := range cs[20:] {
			r := has(t, c)
			r.slot.Release(balance.OutcomeDone)
		}
	})
}

// A client that hangs up while its upload is unread leaves the room, although net/http does not
// tell.
func TestClientOfUnreadBodyLeaves(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs TCP_INFO")
	}
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("tls=%v", secure), func(t *testing.T) {
			_, a := warm(t, 1, balance.Limits{Hard: 1})
			held, err := a.Acquire(t.Context(), &balance.Request{App: "web"})
			if err != nil {
				t.Fatal(err)
			}
			defer held.Release(balance.OutcomeDone)
			a.config.MaxWait = -1
			parked, left := make(chan struct{}, 2), make(chan error, 2)
			a.config.Trace.Parked = func(balance.AppID, int) { parked <- struct{}{} }
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				_, err := a.Acquire(r.Context(), &balance.Request{App: "web"})
				left <- err
			}))
			s.Config.ConnContext = ConnContext
			if s.Start(); secure {
				s.Close()
				s = httptest.NewUnstartedServer(s.Config.Handler)
				s.Config.ConnContext = ConnContext
				s.StartTLS()
			}
			defer s.Close()
			body, writer := io.Pipe()
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				req, _ := http.NewRequestWithContext(ctx, http.MethodPost, s.URL, body)
				s.Client().Do(req)
			}()
			go writer.Write(make([]byte, 10_000)) // more would keep the end of the connection from arriving
			<-parked
			select {
			case err := <-left:
				t.Fatalf("left before its client did: %v", err)
			default:
			}
			cancel()
			writer.CloseWithError(errors.New("gone"))
			if err := <-left; !errors.Is(err, context.Canceled) || a.Parked("web") != 0 {
				t.Errorf("error %v with %d parked, want context.Canceled and none", err, a.Parked("web"))
			}
		})
	}
}

func TestConnContextWithoutTCP(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	ctx := ConnContext(t.Context(), a)
	if c := ctx.Value(connKey{}); c != nil {
		t.Errorf("%v is looked at", c)
	}
}

// A granted slot goes to who waits first, without a guess.
func TestGrantWakesWhoWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, balance.App{Autostart: true, Limits: balance.Limits{Hard: 1}}, Config{})
		row := balance.Machine{
			ID: "gpu", App: "web", Region: "nrt", Owner: "w", State: balance.StateStarted, Epoch: 1,
		}
		w.fleet.Apply(balance.PutMachine{Machine: row, Version: balance.Version{Incarnation: 1, Seq: 1}})
		w.run()
		defer w.stop()
		grant := balance.Grant{App: "web", Machine: "gpu", Epoch: 1, Token: 7, For: sec}
		w.b.AcceptGrant(grant)
		first, r := w.acquire()
		if token, ok := first.GrantToken(); !ok || token != 7 {
			t.Fatalf("token %d, %v", token, ok)
		}
		_ = r
		a, b := w.park(t.Context(), &balance.Request{App: "web"}), w.park(t.Context(), &balance.Request{App: "web"})
		time.Sleep(sec)
		hasNot(t, a)
		grant.Token = 8
		w.b.AcceptGrant(grant)
		got := has(t, a)
		hasNot(t, b)
		if token, ok := got.slot.GrantToken(); !ok || token != 8 {
			t.Errorf("token %d, %v", token, ok)
		}
		got.slot.Release(balance.OutcomeDone)
		first.Release(balance.OutcomeDone)
		grant.Token = 9
		w.b.AcceptGrant(grant)
		got = has(t, b)
		got.slot.Release(balance.OutcomeDone)
	})
}

// What the room adds to a request: its seat and the channel on which it waits.
func TestSeatsAreSmall(t *testing.T) {
	const n = 1000
	least := uint64(1 << 60) // of several: whatever else goes on in the process allocates too
	for range 5 {
		var r waitroom.List[waiting]
		seats := make([]*waitroom.Seat[waiting], 0, n)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for i := range n {
			s := &waitroom.Seat[waiting]{Value: waiting{done: make(chan struct{}, 1)}}
			r.Join(s, "", uint64(i+2), false)
			seats = append(seats, s)
		}
		runtime.ReadMemStats(&after)
		least = min(least, (after.TotalAlloc-before.TotalAlloc)/n)
		runtime.KeepAlive(seats)
	}
	if least > 500 {
		t.Errorf("%d bytes for each that waits, want at most 500", least)
	}
}

// BenchmarkLeave parks requests and cancels them in random order: the time of one cancel, without
// its goroutine's end.
func BenchmarkLeave(bb *testing.B) {
	for _, n := range []int{1000, 100_000} {
		bb.Run(fmt.Sprintf("parked=%d", n), func(bb *testing.B) {
			_, a := warm(bb, 1, balance.Limits{Hard: 1})
			a.occupancy.bounds = bounds{parked: n, usual: n, bytes: -1, all: -1, allBytes: -1}
			r := a.roomOf("web")
			q := &r.queue
			r.dispatcher.running = true // nobody hands anything over
			seats := make([]*waitroom.Seat[waiting], n)
			bb.ReportAllocs()
			var total time.Duration
			ops := 0
			for bb.Loop() {
				for i := range seats {
					seats[i] = &waitroom.Seat[waiting]{
						Value: waiting{done: make(chan struct{}, 1)}, Bytes: requestBytes,
					}
					if _, err := q.join(seats[i], &balance.Request{App: "web"}); err != nil {
						bb.Fatal(err)
					}
				}
				rand.Shuffle(n, func(i, j int) { seats[i], seats[j] = seats[j], seats[i] })
				began := time.Now()
				for _, s := range seats {
					q.mu.Lock()
					q.leave(s)
					q.mu.Unlock()
				}
				total += time.Since(began)
				ops += n
			}
			if q.room.N != 0 || a.occupancy.n.Load() != 0 || a.occupancy.bytes.Load() != 0 ||
				a.occupancy.occupied.Load() != 0 {
				bb.Fatal("something is left behind")
			}
			bb.ReportMetric(float64(total.Nanoseconds())/float64(ops), "ns/leave")
			bb.ReportMetric(0, "ns/op")
		})
	}
}
