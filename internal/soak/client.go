package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// longest bounds one request of a client: what has not ended by then is lost.
const longest = 90 * time.Second

// client sends requests of all kinds, one after another.
type client struct {
	addr string
	http *http.Client
	rand *rand.Rand
	name string
	n    int
}

func newClient(addr, name string, seed uint64, h2 bool) *client {
	t := &http.Transport{MaxIdleConnsPerHost: 4, DisableCompression: true}
	if h2 {
		t.Protocols = new(http.Protocols)
		t.Protocols.SetUnencryptedHTTP2(true)
	}
	return &client{addr: addr, name: name, http: &http.Client{Transport: t}, rand: rand.New(rand.NewPCG(seed, 1))}
}

// kinds are drawn from by weight.
var kinds = []struct {
	kind   kind
	weight int
}{
	{kindGet, 30}, {kindPost, 30}, {kindFails, 10}, {kindCancel, 10}, {kindStream, 6}, {kindUpload, 5}, {kindSlow, 4},
	{kindCut, 4}, {kindEcho, 2},
}

func (c *client) draw() kind {
	total := 0
	for _, k := range kinds {
		total += k.weight
	}
	n := c.rand.IntN(total)
	for _, k := range kinds {
		if n -= k.weight; n < 0 {
			return k.kind
		}
	}
	panic("unreachable")
}

// next sends one request and tells how it ended. ends is when slow clients stop being slow.
func (c *client) next(ends time.Time) (r request) {
	c.n++
	r = request{id: fmt.Sprintf("%s-%d", c.name, c.n), kind: c.draw(), began: time.Now()}
	defer func() { r.took = time.Since(r.began) }()
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	app := apps[c.rand.IntN(len(apps))]
	q := url.Values{"id": {r.id}, "kind": {string(r.kind)}, "ms": {fmt.Sprint(c.rand.IntN(60))}}
	if r.kind == kindEcho {
		c.echo(&r, string(app.id), q, ends)
		return r
	}
	method, body, want := http.MethodGet, io.Reader(nil), r.id+"\n"
	switch r.kind {
	case kindPost:
		method = http.MethodPost
		b := bytes.Repeat([]byte("form&"), 1+c.rand.IntN(400))
		body, want = bytes.NewReader(b), fmt.Sprintf("%s %d %x\n", r.id, len(b), sha256.Sum256(b))
	case kindUpload:
		method = http.MethodPost
		b := make([]byte, 100<<10+c.rand.IntN(1<<20))
		if left := time.Until(ends); left > 0 && c.rand.IntN(4) == 0 { // the app reads on late
			q.Set("pause",
				fmt.Sprint(min(left, time.Duration(c.rand.IntN(9000))*time.Millisecond).Milliseconds()))
		}
		pattern(b, 0)
		body, want = &slowReader{r: bytes.NewReader(b), pause: 2 * time.Millisecond}, fmt.Sprintf("%s %d %x\n", r.id, len(b), sha256.Sum256(b))
		if c.rand.IntN(2) == 0 {
			body = struct{ io.Reader }{body} // of unknown length
		}
	case kindSlow:
		q.Set("bytes", fmt.Sprint(64<<10+c.rand.IntN(8<<20)))
	case kindFails:
		q.Set("status", []string{"500", "503"}[c.rand.IntN(2)])
	case kindStream:
		want = ""
		for i := range 10 {
			want += fmt.Sprintf("%s %d\n", r.id, i)
		}
	case kindCancel:
		if c.rand.IntN(2) == 0 {
			method, body = http.MethodPost, strings.NewReader("half of it")
		}
		q.Set("ms", "200")
		time.AfterFunc(time.Duration(c.rand.IntN(200))*time.Millisecond, cancel)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+c.addr+"/?"+q.Encode(), body)
	if err != nil {
		r.detail = err.Error()
		return r
	}
	if s, ok := body.(*slowReader); ok {
		req.ContentLength = int64(s.r.Len())
	}
	req.GetBody = nil // the proxy is what tries again, not this client
	req.Host = string(app.id)
	resp, err := c.http.Do(req)
	if err != nil {
		r.left, r.detail = errors.Is(ctx.Err(), context.Canceled), err.Error()
		return r
	}
	defer resp.Body.Close()
	r.heads(resp)
	if r.sick {
		want = r.id + "\n"
	}
	if r.kind == kindSlow && !r.ours && !r.sick {
		err = c.readSlowly(resp, ends)
	} else {
		var got []byte
		got, err = io.ReadAll(resp.Body)
		if r.ours {
			r.detail = resp.Header.Get(causeHeader) + ": " + strings.TrimSpace(string(got))
			return r
		}
		if err == nil && string(got) != want && (r.kind != kindCut || r.sick) {
			err = fmt.Errorf("another answer: %.80q", got)
		}
	}
	if r.whole = err == nil; err != nil {
		r.detail = err.Error()
	}
	r.left = !r.whole && errors.Is(ctx.Err(), context.Canceled)
	return r
}

// heads notes what the head of an answer says.
func (r *request) heads(resp *http.Response) {
	r.status, r.retry = resp.StatusCode, resp.Header.Get("Retry-After") != ""
	r.ours, r.sick = resp.Header.Get(appHeader) == "", resp.Header.Get(sickHeader) != ""
}

// readSlowly reads a large answer with pauses, some of them longer than any timer that a slow
// reader must not meet.
func (c *client) readSlowly(resp *http.Response, ends time.Time) error {
	pauses := 1 + c.rand.IntN(3)
	got, want := make([]byte, 64<<10), make([]byte, 64<<10)
	at := int64(0)
	for {
		if left := time.Until(ends); pauses > 0 && left > 0 && c.rand.IntN(4) == 0 {
			pauses--
			time.Sleep(min(left, time.Duration(c.rand.IntN(9000))*time.Millisecond))
		}
		n, err := io.ReadFull(resp.Body, got)
		pattern(want[:n], at)
		if !bytes.Equal(got[:n], want[:n]) {
			return fmt.Errorf("wrong bytes from %d on", at)
		}
		at += int64(n)
		switch {
		case err == io.ErrUnexpectedEOF, err == io.EOF:
			if at != resp.ContentLength {
				return fmt.Errorf("%d bytes of %d", at, resp.ContentLength)
			}
			return nil
		case err != nil:
			return fmt.Errorf("after %d bytes of %d: %w", at, resp.ContentLength, err)
		}
	}
}

// echo talks over an upgraded connection, pauses, and talks again.
func (c *client) echo(r *request, app string, q url.Values, ends time.Time) {
	conn, err := net.Dial("tcp", c.addr)
	if err != nil {
		r.detail = err.Error()
		return
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(longest))
	fmt.Fprintf(conn, "GET /?%s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n", q.Encode(), app)
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		r.detail = err.Error()
		return
	}
	r.heads(resp)
	if resp.StatusCode != http.StatusSwitchingProtocols {
		b, err := io.ReadAll(resp.Body)
		r.whole, r.detail = err == nil && !r.ours && string(b) == r.id+"\n", strings.TrimSpace(string(b))
		return
	}
	for i := range 5 {
		line := fmt.Sprintf("%s %d\n", r.id, i)
		if _, err = io.WriteString(conn, line); err != nil {
			break
		}
		var got string
		if got, err = in.ReadString('\n'); err != nil || got != line {
			err = fmt.Errorf("echo %q: %w", got, err)
			break
		}
		if left := time.Until(ends); left > 0 && i == 2 {
			time.Sleep(min(left, time.Duration(c.rand.IntN(8000))*time.Millisecond))
		}
	}
	if r.whole = err == nil; err != nil {
		r.detail = err.Error()
	}
}

// slowReader is a body that comes in pieces.
type slowReader struct {
	r     *bytes.Reader
	pause time.Duration
}

func (s *slowReader) Read(p []byte) (int, error) {
	time.Sleep(s.pause)
	return s.r.Read(p[:min(len(p), 16<<10)])
}
