package auth

import (
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
)

// An owner says nothing to who has proven nothing, whatever the server above it wants to say.
func TestNothingIsSaidToAStranger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		heard := make(chan []byte, 1)
		go func() { b, _ := io.ReadAll(far); heard <- b }()
		c := NewOwnerConn(near, &Owner{Keys: hop.AuthKeys("key")}, NewPending(-1), time.Minute)
		if n, err := io.WriteString(c, "HTTP/1.1 400 Bad Request"); n != 0 || err != errUnauthenticated {
			t.Errorf("wrote %d bytes, %v", n, err)
		}
		c.Close()
		if b := <-heard; len(b) > 0 {
			t.Errorf("a stranger heard %q", b)
		}
	})
}

// Whoever uses a connection whose ends do not accept each other learns why, not only the first one.
func TestARefusalIsToldToAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		ended := make(chan error, 1)
		go func() {
			far.Write(hop.AppendRefusal(nil, hop.AuthUnknown))
			_, err := far.Read(make([]byte, 1))
			ended <- err
		}()
		c := &EdgeConn{
			Conn: near, peer: "worker", keys: hop.AuthKeys("key"), binding: make([]byte, hop.BindingSize),
			turn: make(chan struct{}, 1),
		}
		c.once.Do(func() {}) // the hello has been sent
		for i, use := range []func([]byte) (int, error){c.Read, c.Read, c.Write} {
			if _, err := use(make([]byte, 1)); !Denied(err) {
				t.Errorf("use %d: %v", i+1, err)
			}
		}
		synctest.Wait()
		select {
		case err := <-ended:
			if err != io.EOF {
				t.Errorf("the owner gets %v", err)
			}
		default:
			t.Error("the connection is open")
		}
	})
}
