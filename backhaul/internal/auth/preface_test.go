package auth

import (
	"bytes"
	"net"
	"testing"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
)

// recorded is a connection whose other end has said all that it will.
type recorded struct {
	in  *bytes.Reader
	out bytes.Buffer
}

func (s *recorded) Read(p []byte) (int, error) { return s.in.Read(p) }

func (s *recorded) Write(p []byte) (int, error) { return s.out.Write(p) }

func (s *recorded) Close() error { return nil }

func (s *recorded) LocalAddr() net.Addr { return &net.TCPAddr{} }

func (s *recorded) RemoteAddr() net.Addr { return &net.TCPAddr{} }

func (s *recorded) SetDeadline(time.Time) error { return nil }

func (s *recorded) SetReadDeadline(time.Time) error { return nil }

func (s *recorded) SetWriteDeadline(time.Time) error { return nil }

// copied reports whether b begins with what hello signs and one of its proofs: nobody else could
// have made that.
func copied(b, hello []byte) bool {
	proof := hello[hop.HelloSigned:][:hop.ProofSize]
	return bytes.HasPrefix(b, hello[:hop.HelloSigned]) &&
		(bytes.Equal(b[hop.HelloSigned:][:hop.ProofSize], proof) || bytes.Equal(b[hop.HelloSigned+hop.ProofSize:hop.HelloSize], proof))
}

// Whatever comes first on a connection, it ends, nobody gets in without the key, and an honest
// owner says so.
func FuzzPreface(f *testing.F) {
	keys := hop.AuthKeys("key")
	var nonce [hop.NonceSize]byte
	hello := hop.AppendHello(nil, keys, nonce, nil)
	f.Add([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	f.Add([]byte(hop.ClientPreface))
	f.Add(hello)
	f.Add(append(bytes.Clone(hello), make([]byte, hop.ProofSize)...))
	f.Add(hop.AppendHello(nil, keys, nonce, make([]byte, hop.BindingSize)))
	f.Add(hello[:20])
	f.Add(
		[]byte(
			"\x00ebbK2\r\nand more than any other version needs, whatever it may look like, and so on, and so on, and so on",
		),
	)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		s := &recorded{in: bytes.NewReader(b)}
		p := NewPending(-1)
		c := NewOwnerConn(s, &Owner{Keys: keys}, p, time.Hour)
		n, err := c.Read(make([]byte, 1))
		if n > 0 || err == nil || c.Known.Load() || p.Len() != 0 {
			t.Fatalf("%q: read %d, %v, known %v, %d pending", b, n, err, c.Known.Load(), p.Len())
		}
		if _, err := c.Write([]byte("x")); err == nil {
			t.Fatal("said something to a stranger")
		}
		out := s.out.Bytes()
		switch {
		case len(b) == 0:
		case !hop.BeginsHello(b):
			if !bytes.HasPrefix(out, []byte("HTTP/1.1 403 ")) {
				t.Fatalf("%q: answered %q", b, out)
			}
		case len(b) >= hop.HelloSize:
			if _, why := hop.JudgeReply(out, b[:hop.HelloSize], keys, nil); why == "" != copied(b, hello) {
				t.Fatalf("%q: answered %q: %q", b, out, why)
			}
		case len(out) > 0:
			t.Fatalf("%q: answered %q", b, out)
		}
		// The same bytes as a reply.
		if _, why := hop.JudgeReply(b, hello, keys, nil); why == "" {
			t.Fatalf("%q is a reply", b)
		}
		if reply, err := readReply(&recorded{in: bytes.NewReader(b)}); err == nil &&
			len(reply) > hop.ReplySize {
			t.Fatalf("%q: %d bytes of a reply", b, len(reply))
		} else if err != nil && len(b) >= hop.MagicSize && !bytes.HasPrefix(b, []byte(hop.ReplyMagic)) {
			t.Fatalf("%q: %v", b, err)
		}
	})
}
