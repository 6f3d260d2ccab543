package delay

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

func TestConnHalfClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, near, far := linked(100 * ms)
		defer l.Close()
		elapsed := stopwatch()
		write(t, near, "question")
		if err := near.(closeWriter).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if err := near.(closeWriter).CloseWrite(); err != nil {
			t.Errorf("again: %v", err)
		}
		if _, err := near.Write([]byte("more")); err == nil {
			t.Error("wrote after CloseWrite")
		}
		got, err := io.ReadAll(far)
		if string(got) != "question" || err != nil {
			t.Errorf("far got %q, %v", got, err)
		}
		wantElapsed(t, "far got the end", elapsed(), 50*ms)
		write(t, far, "answer")
		far.Close()
		got, err = io.ReadAll(near)
		if string(got) != "answer" || err != nil {
			t.Errorf("near got %q, %v", got, err)
		}
		wantElapsed(t, "near got the end", elapsed(), 100*ms)
		if err := near.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestConnHalfCloseUnsupported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l Links
		defer l.Close()
		l.Set("a", "b", ms)
		inner, far := net.Pipe()
		defer far.Close()
		c := l.Conn(inner, "b", "a") // the order of names does not matter
		if err := c.(closeWriter).CloseWrite(); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("got %v", err)
		}
	})
}

// As with a kernel: bytes written before Close arrive, then the end; the goroutines end by
// themselves.
func TestConnCloseDelivers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, near, far := linked(100 * ms)
		elapsed := stopwatch()
		write(t, near, "last words")
		if err := near.Close(); err != nil {
			t.Fatal(err)
		}
		wantElapsed(t, "close returned", elapsed(), 0)
		if err := near.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("again: %v", err)
		}
		if _, err := near.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read: %v", err)
		}
		if _, err := near.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write: %v", err)
		}
		if err := near.SetDeadline(time.Now()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("set deadline: %v", err)
		}
		got, err := io.ReadAll(far)
		if string(got) != "last words" || err != nil {
			t.Errorf("far got %q, %v", got, err)
		}
		wantElapsed(t, "far got the end", elapsed(), 50*ms)
		synctest.Wait()
	})
}

// A peer that does not read cannot hold a closed connection for ever.
func TestConnCloseLingers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, near, far := linked(100 * ms)
		write(t, near, string(make([]byte, 2*memBuffer)))
		near.Close()
		elapsed := stopwatch()
		time.Sleep(linger + 50*ms)
		synctest.Wait()
		if _, err := far.Write([]byte("anybody there?")); err == nil {
			t.Errorf("the connection is still open after %v", elapsed())
		}
	})
}

func TestConnReadDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, near, far := linked(100 * ms)
		defer l.Close()
		p := make([]byte, 10)
		elapsed := stopwatch()
		near.SetReadDeadline(time.Now().Add(30 * ms))
		write(t, far, "hello")
		if n, err := near.Read(p); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("before it is due: %d, %v", n, err)
		}
		wantElapsed(t, "gave up", elapsed(), 30*ms)
		near.SetReadDeadline(time.Time{})
		read(t, near, 5)
		wantElapsed(t, "got it", elapsed(), 50*ms)

		// A deadline set while a read waits ends it; net/http does that.
		go func() {
			time.Sleep(20 * ms)
			near.SetReadDeadline(time.Unix(1, 0))
		}()
		if _, err := near.Read(p); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		wantElapsed(t, "was ended", elapsed(), 70*ms)
		if n, err := near.Read(nil); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("empty read: %d, %v", n, err)
		}
	})
}

func TestConnErrorsComeLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, near, far := linked(100 * ms)
		defer l.Close()
		elapsed := stopwatch()
		far.Close() // a reset: a writer learns of it when the first bytes came back refused
		write(t, near, "into the void")
		time.Sleep(99 * ms)
		write(t, near, "not known yet")
		time.Sleep(ms)
		synctest.Wait()
		if _, err := near.Write([]byte("now")); !errors.Is(err, errReset) {
			t.Errorf("after %v: %v", elapsed(), err)
		}
		near.Close()
	})
}

func TestLinksCloseEndsAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, near, far := linked(100 * ms)
		write(t, near, "lost")
		errs := make(chan error, 2)
		go func() {
			_, err := near.Read(make([]byte, 1))
			errs <- err
		}()
		go func() {
			_, err := near.Write(make([]byte, 20<<20))
			errs <- err
		}()
		synctest.Wait()
		elapsed := stopwatch()
		l.Close()
		for range 2 {
			if err := <-errs; !errors.Is(err, net.ErrClosed) {
				t.Errorf("got %v", err)
			}
		}
		if got, _ := io.ReadAll(far); len(got) > 0 {
			t.Errorf("far got %q", got)
		}
		wantElapsed(t, "closed", elapsed(), 0)
		l.Close()

		inner, far := memPair()
		if _, err := l.Conn(inner, "a", "b").Write([]byte("x")); err == nil {
			t.Error("a connection of closed links works")
		}
		if _, err := far.Write([]byte("x")); err == nil {
			t.Error("the far end is still open")
		}
	})
}

// Bytes that are being written when the link ends are dropped with the rest.
func TestAbortDuringAWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(Links)
		l.Set("a", "b", 100*ms)
		inner, far := net.Pipe()
		near := l.Conn(inner, "a", "b")
		write(t, near, "much that nobody reads to the end")
		far.Read(make([]byte, 4)) // the rest is stuck on its way into the pipe
		synctest.Wait()
		l.Close()
		far.Close()
		synctest.Wait()
	})
}
