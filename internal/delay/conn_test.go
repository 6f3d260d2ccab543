package delay

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/internal/delay/queue"
)

const ms = time.Millisecond

// linked returns links with one round trip between "a" and "b", and the two ends of a connection
// over it. A goroutine that is left over fails the bubble.
func linked(rtt time.Duration) (l *Links, near net.Conn, far *memConn) {
	l = new(Links)
	l.Set("a", "b", rtt)
	inner, far := memPair()
	return l, l.Conn(inner, "a", "b"), far
}

// stopwatch returns the virtual time since it was made.
func stopwatch() func() time.Duration {
	start := time.Now()
	return func() time.Duration { return time.Since(start) }
}

func wantElapsed(t *testing.T, what string, got, want time.Duration) {
	t.Helper()
	if got != want {
		t.Errorf("%s after %v, want %v", what, got, want)
	}
}

func read(t *testing.T, c io.Reader, n int) string {
	t.Helper()
	p := make([]byte, n)
	if _, err := io.ReadFull(c, p); err != nil {
		t.Fatalf("read: %v", err)
	}
	return string(p)
}

func write(t *testing.T, c io.Writer, s string) {
	t.Helper()
	if n, err := io.WriteString(c, s); n != len(s) || err != nil {
		t.Fatalf("write: %d, %v", n, err)
	}
}

func TestConnDelaysEachWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, near, far := linked(100 * ms)
		defer l.Close()
		elapsed := stopwatch()
		write(t, near, "ping")
		wantElapsed(t, "write returned", elapsed(), 0)
		if got := read(t, far, 4); got != "ping" {
			t.Errorf("far got %q", got)
		}
		wantElapsed(t, "far got it", elapsed(), 50*ms)
		write(t, far, "pong")
		if got := read(t, near, 4); got != "pong" {
			t.Errorf("near got %q", got)
		}
		wantElapsed(t, "near got it", elapsed(), 100*ms)

		// One after the other, each half a round trip after it was written.
		for range 3 {
			write(t, near, "x")
			time.Sleep(10 * ms)
		}
		for i := range 3 {
			read(t, far, 1)
			wantElapsed(t, "a later one", elapsed(), 150*ms+time.Duration(i)*10*ms)
		}
	})
}

func TestConnWithoutDelayIsTheSame(t *testing.T) {
	var l Links
	inner, _ := memPair()
	if got := l.Conn(inner, "a", "b"); got != net.Conn(inner) {
		t.Errorf("got a %T", got)
	}
}

// Throughput is bounded only by the bytes on their way: one window per half round trip.
func TestConnThroughput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size, rtt = 50 << 20, 100 * ms
		for _, toFar := range []bool{true, false} {
			l, near, far := linked(rtt)
			var from, to net.Conn = near, far
			if !toFar {
				from, to = far, near
			}
			elapsed := stopwatch()
			sent := make(chan hash.Hash, 1)
			go func() {
				h := sha256.New()
				r := rand.NewChaCha8([32]byte{1})
				if _, err := io.CopyN(io.MultiWriter(from, h), r, size); err != nil {
					t.Errorf("send: %v", err)
				}
				from.(closeWriter).CloseWrite()
				sent <- h
			}()
			got := sha256.New()
			n, err := io.Copy(got, to)
			if n != size || err != nil || !bytes.Equal(got.Sum(nil), (<-sent).Sum(nil)) {
				t.Errorf("to far %v: received %d bytes, %v", toFar, n, err)
			}
			atBest := time.Duration(float64(size) / queue.Window * float64(rtt/2))
			if took := elapsed(); took < atBest*9/10 || took > atBest*3/2+rtt {
				t.Errorf("to far %v: took %v, the window allows %v", toFar, took, atBest)
			}
			l.Close()
		}
	})
}

func TestConnBackpressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, near, far := linked(100 * ms)
		defer l.Close()
		near.SetWriteDeadline(time.Now().Add(time.Second))
		elapsed := stopwatch()
		n, err := near.Write(make([]byte, 20<<20))
		if !errors.Is(err, os.ErrDeadlineExceeded) || n < queue.Window ||
			n > queue.Window+2*memBuffer+queue.MaxPiece {
			t.Errorf("a peer that does not read: wrote %d, %v", n, err)
		}
		wantElapsed(t, "it gave up", elapsed(), time.Second)
		if e, ok := errors.AsType[net.Error](err); !ok || !e.Timeout() {
			t.Errorf("%v is no timeout", err)
		}

		// As soon as the peer reads there is room again.
		near.SetWriteDeadline(time.Time{})
		done := make(chan error, 1)
		go func() {
			_, err := near.Write(make([]byte, 1<<20))
			done <- err
		}()
		synctest.Wait()
		if len(done) > 0 {
			t.Fatal("wrote into a full link")
		}
		io.CopyN(io.Discard, far, 4<<20)
		if err := <-done; err != nil {
			t.Error(err)
		}

		// The other direction: the link takes in a window and no more, then the peer's own buffer fills.
		var taken atomic.Int64
		go func() {
			for {
				n, err := far.Write(make([]byte, 64<<10))
				taken.Add(int64(n))
				if err != nil {
					return
				}
			}
		}()
		time.Sleep(time.Second)
		synctest.Wait()
		if n := taken.Load(); n < queue.Window-queue.Window/4 || n > queue.Window+2*memBuffer {
			t.Errorf("the peer wrote %d bytes to a reader that does not read", n)
		}
	})
}

func TestConnKeepsOrderWhenTheDelayChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, near, far := linked(100 * ms)
		defer l.Close()
		elapsed := stopwatch()
		write(t, near, "slow,")
		l.Set("b", "a", 10*ms)
		write(t, near, "fast,")
		read(t, far, 10)
		wantElapsed(t, "both came", elapsed(), 50*ms)
		write(t, near, "faster,")
		read(t, far, 7)
		wantElapsed(t, "the third", elapsed(), 55*ms)
		l.Set("a", "b", -1)
		write(t, near, "now")
		read(t, far, 3)
		wantElapsed(t, "the last", elapsed(), 55*ms)
		if got := l.RTT("a", "b"); got != 0 {
			t.Errorf("RTT = %v", got)
		}
	})
}

// Writes of several goroutines do not mix, as with the net package's connections.
func TestConnConcurrentWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, near, far := linked(10 * ms)
		defer l.Close()
		const each = 3 << 20 // four of them are more than a window: they have to wait within a write
		for b := range byte(4) {
			go near.Write(bytes.Repeat([]byte{'a' + b}, each))
		}
		for range 4 {
			p := []byte(read(t, far, each))
			if !bytes.Equal(p, bytes.Repeat(p[:1], each)) {
				t.Fatal("writes are mixed")
			}
		}
	})
}

func TestDialCostsARoundTrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l Links
		defer l.Close()
		l.Set("a", "b", 100*ms)
		var dialled time.Duration
		elapsed := stopwatch()
		refuse := l.WrapDial("a", "b", func(context.Context, string, string) (net.Conn, error) {
			dialled = elapsed()
			return nil, errReset
		})
		if _, err := refuse(t.Context(), "tcp", "x"); err != errReset {
			t.Errorf("got %v", err)
		}
		wantElapsed(t, "dialled", dialled, 50*ms)
		wantElapsed(t, "refused", elapsed(), 100*ms)

		ctx, cancel := context.WithTimeout(t.Context(), 70*ms)
		defer cancel()
		inner, far := memPair()
		accept := l.WrapDial(
			"a", "b", func(context.Context, string, string) (net.Conn, error) { return inner, nil },
		)
		if _, err := accept(ctx, "tcp", "x"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		wantElapsed(t, "gave up", elapsed(), 170*ms)
		if _, err := far.Write([]byte("x")); err == nil {
			t.Error("a connection that nobody got is still open")
		}
		go func() {
			time.Sleep(10 * ms)
			l.Close()
		}()
		if _, err := accept(t.Context(), "tcp", "x"); !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v", err)
		}
	})
}

// The whole of it under net/http: a first request costs two round trips, the next one.
func TestHTTPOverALink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLinks("nrt", "fra")
		defer l.Close()
		rtt := l.RTT("nrt", "fra")
		ln := newMemListener()
		srv := &http.Server{
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }),
		}
		go srv.Serve(ln)
		defer srv.Close()
		tr := &http.Transport{
			DialContext: l.WrapDial(
				"nrt", "fra", func(context.Context, string, string) (net.Conn, error) { return ln.dial() },
			),
		}
		defer tr.CloseIdleConnections()
		for i, want := range []time.Duration{2 * rtt, rtt} {
			elapsed := stopwatch()
			req, _ := http.NewRequestWithContext(t.Context(), "POST", "http://x/", bytes.NewReader([]byte("hello")))
			res, err := tr.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			res.Body.Close()
			if string(body) != "hello" || err != nil {
				t.Errorf("got %q, %v", body, err)
			}
			if got := elapsed(); got < want || got > want+2 {
				t.Errorf("request %d took %v, want %v", i, got, want)
			}
		}
	})
}
