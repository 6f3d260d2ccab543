package pool

import (
	"io"
	"net"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/internal/nettest"
)

// What has come to an idle connection keeps it from being lent, although the goroutine that reads
// has not seen it yet.
func TestAnIdleConnectionIsLookedAtBeforeItIsLent(t *testing.T) {
	near, far := nettest.Pair(t)
	if w := NewWire(near, nil); !w.kernel.Holds(-1) {
		t.Skip("the kernel does not say")
	}
	far.Close()
	for _, tt := range []struct {
		name string
		do   func(far *net.TCPConn)
	}{
		{"a byte", func(far *net.TCPConn) { far.Write([]byte("x")) }},
		{"an answer", func(far *net.TCPConn) { io.WriteString(far, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL") }},
		{"the end", func(far *net.TCPConn) { far.Close() }},
		{"the end of one half", func(far *net.TCPConn) { far.CloseWrite() }},
		{"a reset", func(far *net.TCPConn) { far.SetLinger(0); far.Close() }},
	} {
		for _, preface := range []string{"", "welcome"} {
			near, far := nettest.Pair(t)
			io.WriteString(far, preface) // for the dialer, who reads it before
			io.ReadFull(near, make([]byte, len(preface)))
			w := NewWire(near, nil)
			for range 3 { // an exchange
				if _, err := w.Write([]byte("ask")); err != nil {
					t.Fatal(err)
				}
				io.WriteString(far, "answer")
				if _, err := io.ReadFull(w, make([]byte, len("answer"))); err != nil {
					t.Fatal(err)
				}
				w.rest()
				if w.still() {
					t.Fatal("lent although nobody reads: bytes may be left over")
				}
				w.reading.Store(true) // as if it waited and were never run
				if !w.still() {
					t.Fatal("a clean connection is not lent")
				}
			}
			tt.do(far)
			for w.still() { // until it has arrived
				runtime.Gosched()
			}
			wrote := w.wrote.Load()
			if _, err := w.Write([]byte("ask")); err != errUnasked || w.wrote.Load() != wrote {
				t.Errorf("%s: written to with %v", tt.name, err)
			}
		}
	}
}

// What is read while nobody has asked is not handed on, whichever goroutine comes first.
func TestBytesBetweenRequestsAreNobodys(t *testing.T) {
	a, b := net.Pipe() // no kernel to ask
	defer a.Close()
	defer b.Close()
	w := NewWire(a, nil)
	w.rest()
	got := make(chan error)
	go func() {
		_, err := w.Read(make([]byte, 100))
		got <- err
	}()
	for !w.still() {
		runtime.Gosched()
	}
	b.Write([]byte("EVIL"))
	if err := <-got; err != errUnasked {
		t.Errorf("Read: %v", err)
	}
	if _, err := w.Write([]byte("ask")); err != errUnasked {
		t.Errorf("Write: %v", err)
	}
	if w.got.Load() != 0 {
		t.Error("what nobody gets is counted")
	}
}

// A write that fails waits for what can be read, and not for ever.
func TestAFailedWriteWaitsForTheAnswer(t *testing.T) {
	for _, tt := range []struct {
		name string
		far  func(net.Conn)
		want time.Duration
	}{
		{"nothing comes", func(net.Conn) {}, hop.Silence},
		{"an answer comes slowly, and the end", func(c net.Conn) {
			for range 4 {
				time.Sleep(2 * time.Second)
				c.Write([]byte("answer"))
			}
			c.Close()
		}, 8 * time.Second},
		{"a bit of an answer comes", func(c net.Conn) { time.Sleep(time.Second); c.Write([]byte("answer")) }, 2 * hop.Silence},
	} {
		synctest.Test(t, func(t *testing.T) {
			a, b := net.Pipe()
			defer b.Close()
			defer a.Close()
			w := NewWire(brokenWriter{a}, nil)
			go io.Copy(io.Discard, w)
			go func() {
				b.Read(make([]byte, 1))
				tt.far(b)
			}()
			began := time.Now()
			if n, err := w.Write([]byte("ask")); n != 1 || err != io.ErrClosedPipe {
				t.Errorf("%s: %d, %v", tt.name, n, err)
			}
			if took := time.Since(began); took != tt.want {
				t.Errorf("%s: took %v, want %v", tt.name, took, tt.want)
			}
		})
	}
}

// brokenWriter writes a byte and fails.
type brokenWriter struct{ net.Conn }

func (b brokenWriter) Write(p []byte) (int, error) {
	n, _ := b.Conn.Write(p[:1])
	return n, io.ErrClosedPipe
}

// BenchmarkLook measures what it costs to look at an idle connection before it is lent.
func BenchmarkLook(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	w := NewWire(c, nil)
	w.rest()
	w.reading.Store(true)
	b.ReportAllocs()
	for b.Loop() {
		if !w.still() {
			b.Fatal("not still")
		}
	}
}
