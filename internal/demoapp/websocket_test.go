package demoapp

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// client is a raw WebSocket client: it sends what it is told, right or wrong.
type client struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

// dial connects to the app at url (http://host:port) and upgrades.
func dial(t *testing.T, url string) *client {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	c := &client{t, conn, bufio.NewReader(conn)}
	c.raw([]byte("GET /ws HTTP/1.1\r\nHost: app\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"))
	r, err := http.ReadResponse(c.in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("status %s", r.Status)
	}
	// The example of RFC 6455, section 1.3.
	if got, want := r.Header.Get("Sec-WebSocket-Accept"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="; got != want {
		t.Fatalf("Sec-WebSocket-Accept %q, want %q", got, want)
	}
	return c
}

func (c *client) raw(b []byte) {
	c.t.Helper()
	if _, err := c.conn.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

// masked returns a client's frame. first is the first byte: the final bit and the opcode.
func masked(first byte, payload string) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	mask := [4]byte{0x12, 0x34, 0x56, 0x78}
	b = append(b, mask[:]...)
	for i := range len(payload) {
		b = append(b, payload[i]^mask[i&3])
	}
	return b
}

// frame reads one frame of the server.
func (c *client) frame() (first byte, payload string, err error) {
	var head [2]byte
	if _, err := io.ReadFull(c.in, head[:]); err != nil {
		return 0, "", err
	}
	if head[1]&0x80 != 0 {
		return 0, "", fmt.Errorf("the server's frame has a mask")
	}
	n := uint64(head[1])
	switch n {
	case 126:
		var b [2]byte
		_, err = io.ReadFull(c.in, b[:])
		n = uint64(binary.BigEndian.Uint16(b[:]))
	case 127:
		var b [8]byte
		_, err = io.ReadFull(c.in, b[:])
		n = binary.BigEndian.Uint64(b[:])
	}
	if err != nil {
		return 0, "", err
	}
	b := make([]byte, n)
	_, err = io.ReadFull(c.in, b)
	return head[0], string(b), err
}

// want reads one frame and compares.
func (c *client) want(first byte, payload string) {
	c.t.Helper()
	gotFirst, got, err := c.frame()
	if err != nil || gotFirst != first || got != payload {
		c.t.Fatalf("frame %#x %.100q (%d bytes), %v, want %#x %.100q (%d bytes)", gotFirst, got, len(got), err, first, payload, len(payload))
	}
}

// wantClose reads a close frame with this status, and then the end.
func (c *client) wantClose(status uint16) {
	c.t.Helper()
	first, payload, err := c.frame()
	if err != nil || first != 0x88 || len(payload) < 2 {
		c.t.Fatalf("frame %#x %q, %v, want a close frame", first, payload, err)
	}
	if got := binary.BigEndian.Uint16([]byte(payload)); got != status {
		c.t.Fatalf("closed with %d %q, want %d", got, payload[2:], status)
	}
	if _, _, err := c.frame(); err != io.EOF {
		c.t.Fatalf("after the close frame: %v, want the end", err)
	}
}

// status returns a close frame's payload.
func status(code uint16, text string) string {
	return string(binary.BigEndian.AppendUint16(nil, code)) + text
}

func TestWebSocketEcho(t *testing.T) {
	app, url := newServer(t, config())
	c := dial(t, url)
	if n := app.inFlight.Load(); n != 1 {
		t.Errorf("%d in flight with a WebSocket open, want 1", n)
	}
	c.raw(masked(0x81, "hello"))
	c.want(0x81, "hello")
	c.raw(masked(0x81, ""))
	c.want(0x81, "")
	// both sides of each form of length
	for _, n := range []int{125, 126, 127, 1<<16 - 1, 1 << 16, maxMessage} {
		message := strings.Repeat("x", n)
		c.raw(masked(0x82, message))
		c.want(0x82, message)
	}
	// In parts, with a ping between them; a character of two bytes is cut in two.
	c.raw(masked(0x01, "gr\xc3"))
	c.raw(masked(0x89, "are you there"))
	c.want(0x8A, "are you there")
	c.raw(masked(0x00, "\xbc\xc3"))
	c.raw(masked(0x8A, "a pong nobody asked for"))
	c.raw(masked(0x80, "\x9fe"))
	c.want(0x81, "grüße")
	// Two in one packet come back in order.
	c.raw(append(masked(0x81, "one"), masked(0x82, "two")...))
	c.want(0x81, "one")
	c.want(0x82, "two")
	c.raw(masked(0x88, status(4321, "bye")))
	c.want(0x88, status(4321, "bye"))
	if _, _, err := c.frame(); err != io.EOF {
		t.Errorf("after the close frame: %v, want the end", err)
	}
	_ = c.conn.Close()
	app.upgraded.Wait() // nothing is left
}

func TestWebSocketCloses(t *testing.T) {
	_, url := newServer(t, config())
	for _, test := range []struct {
		name string
		send []byte
		want uint16
	}{
		{"close without status", masked(0x88, ""), 1000},
		{"close with status", masked(0x88, status(1001, "tab closed")), 1001},
		{"close with half a status", masked(0x88, "\x03"), 1002},
		{"close with 1005", masked(0x88, status(1005, "")), 1002},
		{"close with 999", masked(0x88, status(999, "")), 1002},
		{"close with 2999", masked(0x88, status(2999, "")), 1002},
		{"close with bad text", masked(0x88, status(1000, "\xff")), 1007},
		{"no mask", []byte{0x81, 0x01, 'x'}, 1002},
		{"reserved bit", masked(0xC1, "x"), 1002},
		{"unknown opcode", masked(0x83, "x"), 1002},
		{"unknown control opcode", masked(0x8B, "x"), 1002},
		{"continuation of nothing", masked(0x80, "x"), 1002},
		{"message within a message", append(masked(0x01, "x"), masked(0x81, "y")...), 1002},
		{"ping in parts", masked(0x09, "x"), 1002},
		{"long ping", masked(0x89, strings.Repeat("x", 126)), 1002},
		{"length not shortest, 16 bits", []byte{0x81, 0xFE, 0, 5}, 1002},
		{"length not shortest, 64 bits", []byte{0x81, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF}, 1002},
		{"length of 2^63", []byte{0x81, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0}, 1002},
		{"text that is not UTF-8", masked(0x81, "\xc3"), 1007},
		{"too big", []byte{0x82, 0xFF, 0, 0, 0, 0, 0, 0x10, 0, 1, 0, 0, 0, 0}, 1009},
		{"too big in parts", append(masked(0x02, strings.Repeat("x", maxMessage)), masked(0x80, "x")...), 1009},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := dial(t, url)
			c.raw(test.send)
			c.wantClose(test.want)
		})
	}
}

// When the app closes, clients are told, and what they send after that is not answered.
func TestWebSocketGoingAway(t *testing.T) {
	app, url := newServer(t, config())
	c := dial(t, url)
	c.raw(masked(0x81, "hello"))
	c.want(0x81, "hello")
	app.Close()
	c.want(0x88, status(1001, "the machine is stopping"))
	c.raw(masked(0x81, "too late"))
	c.raw(masked(0x88, status(1001, "")))
	if _, _, err := c.frame(); err != io.EOF {
		t.Errorf("after both close frames: %v, want the end", err)
	}
	app.upgraded.Wait()
}

// A client that vanishes in the middle of a frame leaves nothing behind.
func TestWebSocketVanishes(t *testing.T) {
	app, url := newServer(t, config())
	for _, part := range [][]byte{nil, {0x81}, masked(0x81, "hello")[:4], masked(0x81, "hello")[:8], masked(0x01, "hello")} {
		c := dial(t, url)
		c.raw(part)
		_ = c.conn.Close()
	}
	app.upgraded.Wait()
}

func TestWebSocketRefuses(t *testing.T) {
	_, url := newServer(t, config())
	good := []string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="}
	for _, test := range []struct {
		name, header, value string
		want                int
	}{
		{"no upgrade", "Upgrade", "h2c", 426},
		{"old version", "Sec-WebSocket-Version", "8", 426},
		{"short key", "Sec-WebSocket-Key", "dGhl", 400},
		{"key that is none", "Sec-WebSocket-Key", "???", 400},
	} {
		r, err := http.NewRequest("GET", url+"/ws", nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(good); i += 2 {
			r.Header.Set(good[i], good[i+1])
		}
		r.Header.Set(test.header, test.value)
		answer, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if answer.StatusCode != test.want {
			t.Errorf("%s: status %d, want %d", test.name, answer.StatusCode, test.want)
		}
	}
}

// Whatever a client sends, reading ends, nothing panics, and what comes back are whole frames.
func FuzzWebSocket(f *testing.F) {
	f.Add(masked(0x81, "hello"))
	f.Add(append(masked(0x01, "gr\xc3"), masked(0x80, "\xbc")...))
	f.Add(masked(0x88, status(1000, "bye")))
	f.Add([]byte{0x82, 0xFF, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, sent []byte) {
		conn := &memory{}
		s := &socket{conn: conn, in: bufio.NewReader(bytes.NewReader(sent))}
		s.echo()
		c := &client{t: t, in: bufio.NewReader(&conn.written)}
		for {
			first, payload, err := c.frame()
			if err == io.EOF {
				return
			}
			if err != nil {
				t.Fatalf("%x: half a frame came back: %v", sent, err)
			}
			if op := first & 0x0F; op >= opClose && len(payload) > maxControl {
				t.Fatalf("%x: a control frame of %d bytes came back", sent, len(payload))
			}
		}
	})
}

// memory is a connection that keeps what is written.
type memory struct {
	net.Conn
	written bytes.Buffer
}

func (m *memory) Write(b []byte) (int, error)      { return m.written.Write(b) }
func (m *memory) SetReadDeadline(time.Time) error  { return nil }
func (m *memory) SetWriteDeadline(time.Time) error { return nil }
