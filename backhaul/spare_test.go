package backhaul

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/pool"
)

// ramp sends requests of 100 ms, one more at once every 300 ms, over a path of 20 ms a dial, and returns how many of them
// waited for a connection.
func ramp(t *testing.T, spare, steps int, h2 bool) (waited, dials int) {
	var n atomic.Int32
	tr := pair2(t, Config{tuning: tuning{spare: spare}}, ServerConfig{maxStreams: 1}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(100 * time.Millisecond)
	}), func(_ int, real pool.Dialer) pool.Dialer {
		return func(ctx context.Context) (net.Conn, error) {
			n.Add(1)
			time.Sleep(20 * time.Millisecond)
			return real(ctx)
		}
	})
	var late atomic.Int32
	for k := range steps {
		var wg sync.WaitGroup
		for range k + 1 {
			wg.Go(func() {
				began := time.Now()
				req := request(t, "GET", "http://web/", nil)
				if h2 {
					over2(req)
				}
				resp, err := tr.RoundTrip(req)
				read(t, resp, err)
				if time.Since(began) > 100*time.Millisecond {
					late.Add(1)
				}
			})
		}
		wg.Wait()
		time.Sleep(200 * time.Millisecond)
	}
	tr.Close()
	synctest.Wait()
	return int(late.Load()), int(n.Load())
}

// While load grows by one at a time, only the very first request waits for a connection; without spares one does in each
// step.
func TestSpareConnectionsSaveTheWait(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		for _, tt := range []struct{ spare, waited, most int }{{-1, 20, 20}, {0, 1, 21}, {1, 1, 21}, {3, 1, 23}} {
			synctest.Test(t, func(t *testing.T) {
				waited, dials := ramp(t, tt.spare, 20, h2)
				t.Logf("h2 %v, Spare %d: %d of 210 requests waited for one of %d connections", h2, tt.spare, waited, dials)
				if waited != tt.waited || dials > tt.most {
					t.Errorf("h2 %v, Spare %d: %d waited, want %d; %d dials, want at most %d", h2, tt.spare, waited, tt.waited, dials, tt.most)
				}
			})
		}
	}
}

// Spares are made for peers in use only, one at a time; Close ends what is under way.
func TestSpareConnectionsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n, hanging atomic.Int32
		tr := pair2(t, Config{tuning: tuning{spare: 2}}, ServerConfig{}, says("hello"), func(i int, real pool.Dialer) pool.Dialer {
			n.Add(1)
			if i > 1 {
				return func(ctx context.Context) (net.Conn, error) {
					hanging.Add(1)
					defer hanging.Add(-1)
					<-ctx.Done()
					return nil, context.Cause(ctx)
				}
			}
			return real
		})
		get := func() {
			resp, err := tr.RoundTrip(request(t, "GET", "http://web/", nil))
			if got := read(t, resp, err); got != "hello" {
				t.Errorf("got %q", got)
			}
		}
		for range 5 {
			get()
		}
		synctest.Wait()
		if hanging.Load() != 1 || n.Load() != 2 {
			t.Errorf("%d dials, %d under way; want one spare at a time", n.Load(), hanging.Load())
		}
		time.Sleep(time.Minute) // it has been given up, and nothing was used since
		if hanging.Load() != 0 || n.Load() != 2 {
			t.Errorf("%d dials, %d under way for a peer that is not used", n.Load(), hanging.Load())
		}
		get()
		synctest.Wait()
		if hanging.Load() != 1 {
			t.Error("no spare for a peer in use")
		}
		tr.Close()
		synctest.Wait()
		if hanging.Load() != 0 {
			t.Error("a dial outlives Close")
		}
	})
}
