package tcp

import (
	"errors"
	"io"
	"net"
	"net/http"
	"syscall"

	"github.com/ebbkit/ebb/internal/tcpinfo"
)

func IsTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

type TimeoutError string

func (e TimeoutError) Error() string { return string(e) }

func (e TimeoutError) Timeout() bool { return true }

// IsClosedHere reports whether a connection ended because this process closed it.
func IsClosedHere(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe)
}

type Halver interface{ CloseWrite() error }

// CloseWriter ends one direction of a connection, if that is possible.
type CloseWriter struct{ C net.Conn }

// CloseWrite returns [errors.ErrUnsupported] if it cannot.
func (c CloseWriter) CloseWrite() error { return CloseWrite(c.C) }

func CloseWrite(c any) error {
	if c, ok := c.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return http.ErrNotSupported
}

// Beneath returns the first connection of type T among c and those beneath it.
func Beneath[T net.Conn](c net.Conn) (found T, ok bool) {
	for {
		if found, ok = c.(T); ok {
			return found, true
		}
		n, wraps := c.(interface{ NetConn() net.Conn })
		if !wraps {
			return found, false
		}
		c = n.NetConn()
	}
}

// Reset ends a connection with a reset at once, so that its peer does not take the bytes it got for
// complete. If a reset is not possible, it closes the connection.
func Reset(c any) {
	for {
		switch t := c.(type) {
		case interface{ NetConn() net.Conn }:
			c = t.NetConn()
		case interface {
			SetLinger(sec int) error
			io.Closer
		}:
			t.SetLinger(0) //nolint:errcheck // it ends either way
			t.Close()
			return
		case io.Closer:
			t.Close()
			return
		default:
			return
		}
	}
}

// EndOf returns the error that a connection ended with when reading it returned none. A reset is
// reported once: if a write has reported it, a read sees a clean end. ended says that this side had
// closed its half: then a closed connection has ended well, or its error is the reader's.
func EndOf(c any, ended bool) error {
	for !ended {
		switch t := c.(type) {
		case transparent:
			c = t.Transparent()
		case syscall.Conn: // not what hides one: TLS has an end of its own
			var info tcpinfo.Reader
			if raw, err := t.SyscallConn(); err == nil {
				if i, ok := info.Info(raw); ok && i.Closed {
					return ErrReset
				}
			}
			return nil
		default:
			return nil
		}
	}
	return nil
}

// transparent is a connection of ours that does not change the bytes it carries: it ends as the one
// beneath does.
type transparent interface{ Transparent() net.Conn }

var ErrReset = errors.New("backhaul: the connection was reset by its peer")
