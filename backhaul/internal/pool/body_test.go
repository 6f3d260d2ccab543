package pool

import (
	"io"
	"strings"
	"testing"
	"testing/synctest"
)

// What a try was reading when it ended is the next one's, also where nothing else is kept.
func TestWhatATryWasReadingIsForTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pr, pw := io.Pipe()
		s := &Body{Body: pr}
		one := newReader(s, false)
		go one.Read(make([]byte, 10))
		synctest.Wait()
		one.end()
		two := newReader(s, false)
		go func() {
			io.WriteString(pw, "abc")
			io.WriteString(pw, "def")
			pw.Close()
		}()
		if b, err := io.ReadAll(two); string(b) != "abcdef" || err != nil {
			t.Errorf("the next try sends %q, %v", b, err)
		}
	})
}

// A client's body is closed with no lock held: it may wait for who reads it.
func TestABodyIsClosedWithNoLockHeld(t *testing.T) {
	var s *Body
	closes := 0
	s = &Body{Body: &closing{Reader: strings.NewReader("x"), close: func() {
		closes++
		if !s.mu.TryLock() {
			t.Error("the body is closed under its lock")
			return
		}
		s.mu.Unlock()
	}}}
	r := newReader(s, false)
	var b [4]byte
	if n, err := r.Read(b[:]); n != 1 || err != nil {
		t.Errorf("read %d, %v", n, err)
	}
	s.Close()
	s.Close()
	if closes != 1 {
		t.Errorf("closed %d times, want once", closes)
	}
}

type closing struct {
	io.Reader
	close func()
}

func (c *closing) Close() error {
	c.close()
	return nil
}
