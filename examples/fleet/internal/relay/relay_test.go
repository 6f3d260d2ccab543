package relay

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// echo listens until the test ends, and sends back what it has read at the end of the input.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				all, _ := io.ReadAll(c)
				c.Write(all)
			})
		}
	})
	return l.Addr().String()
}

func TestNet(t *testing.T) {
	at := echo(t)
	n := New(func(from, to string) time.Duration { return 10 * time.Millisecond })
	defer n.Close()
	n.Name(at, "b")
	door, err := n.Door("a")
	if err != nil {
		t.Fatal(err)
	}
	sent := make([]byte, 3<<20)
	rand.Read(sent)
	begin := time.Now()
	c, err := Dial(t.Context(), door, at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() { c.Write(sent); c.(*net.TCPConn).CloseWrite() }()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes, %v; want the %d that were sent", len(got), err, len(sent))
	}
	if d := time.Since(begin); d < 40*time.Millisecond {
		t.Errorf("connecting and an answer took %v: want two round trips of 20ms", d)
	}
}

// TestCut: a cut connection passes no bytes and does not break; a joined one goes on.
func TestCut(t *testing.T) {
	at := echo(t)
	n := New(func(from, to string) time.Duration { return 0 })
	defer n.Close()
	n.Name(at, "b")
	door, err := n.Door("a")
	if err != nil {
		t.Fatal(err)
	}
	c, err := Dial(t.Context(), door, at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	n.Cut("b", "a")
	io.WriteString(c, "hello")
	c.(*net.TCPConn).CloseWrite()
	soon, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if c, err := Dial(soon, door, at); err == nil {
		c.Close()
		t.Error("Dial across a cut: want an error")
	}
	n.Join("a", "b")
	if got, err := io.ReadAll(c); string(got) != "hello" || err != nil {
		t.Errorf("after the cut: %q, %v", got, err)
	}
}

func TestNobody(t *testing.T) {
	n := New(func(from, to string) time.Duration { return 0 })
	defer n.Close()
	door, err := n.Door("a")
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{"127.0.0.1:1", "nonsense"} {
		n.Name("127.0.0.1:1", "b")
		if c, err := Dial(t.Context(), door, at); err == nil {
			c.Close()
			t.Errorf("Dial %s: want an error", at)
		}
	}
}
