package backhaul

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"

	"github.com/ebbkit/ebb/balance"
)

// outbound is the request that a machine gets.
func outbound(ctx context.Context, r *http.Request, m *balance.Machine, early *earlyHints) *http.Request {
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got1xxResponse: early.got})
	out := r.WithContext(ctx)
	u := *r.URL
	u.Scheme, u.Host = "http", string(m.ID) // never dialled: the connection is there
	out.URL = &u
	out.Header = make(http.Header, len(r.Header)+1)
	upgrade := ""
	if v := r.Header["Upgrade"]; len(v) > 0 && hasToken(r.Header["Connection"], "upgrade") {
		upgrade = withoutHTTP(v)
	}
	copyHeader(out.Header, r.Header, nil)
	delete(out.Header, "Expect") // between edge and owner only
	delete(out.Header, headerHTTP2Settings)
	if upgrade != "" {
		out.Header["Connection"] = []string{"Upgrade"}
		out.Header["Upgrade"] = []string{upgrade}
	}
	if hasToken(r.Header["Te"], "trailers") {
		out.Header["Te"] = []string{"trailers"}
	}
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = noAgent // else net/http names itself
	}
	out.RequestURI = ""
	out.Close = false
	out.Body, out.Trailer = nil, nil
	out.TransferEncoding = nil
	return out
}

var noAgent = []string{""}

// copyHeader copies what is meant for the other end: neither the headers of one connection nor those of the hop. upgrade,
// where not nil, is what the connection becomes.
func copyHeader(dst, src http.Header, upgrade []string) {
	named := src["Connection"]
	for k, v := range src {
		if !internal(k) && !hopByHop(k) {
			dst[k] = v
		}
	}
	for _, list := range named {
		for name := range strings.SplitSeq(list, ",") {
			delete(dst, http.CanonicalHeaderKey(strings.TrimSpace(name)))
		}
	}
	if upgrade != nil {
		dst["Connection"], dst["Upgrade"] = []string{"Upgrade"}, upgrade
	}
}

func hopByHop(k string) bool {
	switch k {
	case "Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return true
	}
	return false
}

func hasToken(lists []string, token string) bool {
	for _, list := range lists {
		for name := range strings.SplitSeq(list, ",") {
			if strings.EqualFold(strings.TrimSpace(name), token) {
				return true
			}
		}
	}
	return false
}

// answerWith writes a machine's answer. The headers have been copied. An answer that breaks off is written as far as it
// came, head included, before the error is returned: the edge must see that the machine has answered.
func answerWith(w http.ResponseWriter, resp *http.Response, s *serving) error {
	hd := w.Header()
	if _, ok := hd["Content-Type"]; !ok {
		hd["Content-Type"] = nil // else the server guesses one
	}
	announced := len(resp.Trailer)
	if announced > 0 {
		delete(hd, "Content-Length") // HTTP/1.1 has trailers only after chunks
	}
	for k := range resp.Trailer {
		if !internal(k) {
			hd.Add("Trailer", k)
		}
	}
	w.WriteHeader(resp.StatusCode)
	if resp.Body != http.NoBody {
		live := resp.ContentLength == -1 || strings.HasPrefix(hd.Get("Content-Type"), "text/event-stream")
		if err := copyBody(w, resp.Body, live, s); err != nil {
			http.NewResponseController(w).Flush() //nolint:errcheck // there is nobody left to tell
			resp.Body.Close()
			return err
		}
		resp.Body.Close() // fills in the trailers
	}
	if len(resp.Trailer) > 0 {
		http.NewResponseController(w).Flush() //nolint:errcheck // chunks even an empty body, so that trailers can follow
	}
	for k, v := range resp.Trailer {
		if internal(k) {
			continue
		}
		if len(resp.Trailer) != announced {
			k = http.TrailerPrefix + k
		}
		hd[k] = v
	}
	return nil
}

// copyBody copies a body; where it is live, each piece is sent at once.
func copyBody(w http.ResponseWriter, body io.Reader, live bool, s *serving) error {
	var flush *http.ResponseController
	if live {
		flush = http.NewResponseController(w)
		s.turn()
		err := flush.Flush() // the head, before the first piece
		s.turn()
		if err != nil {
			return err
		}
	}
	buf := buffers.get()
	defer buffers.Put(buf)
	for {
		n, err := body.Read(buf[:])
		if n > 0 {
			s.turn()
			_, werr := w.Write(buf[:n])
			if werr == nil && live {
				werr = flush.Flush()
			}
			s.turn()
			if werr != nil {
				return werr
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// upgrade turns both connections into one, until both sides have ended or one breaks.
func upgrade(w http.ResponseWriter, resp *http.Response, machine *conn) {
	back, ok := resp.Body.(io.ReadWriteCloser)
	if !ok {
		fault(w, http.StatusBadGateway, FailMalformed, "101 without a connection")
		return
	}
	defer back.Close()
	edge, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		fault(w, http.StatusBadGateway, FailMalformed, "this connection cannot be upgraded: "+err.Error())
		return
	}
	defer edge.Close()
	rw.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	w.Header().Write(rw)
	rw.WriteString("\r\n")
	if rw.Flush() != nil {
		return
	}
	in := rw.Reader // rw has another buffer, which is not needed any more
	rest := make(chan error, 1)
	go func() { // edge to machine; what was buffered comes first
		_, err := relay(back, in)
		if err == nil {
			err = halfOf(resp.Body, machine).CloseWrite()
		}
		if err == errTold {
			breakOff(edge)
		}
		if err != nil { // ends the other half as well
			edge.Close()
			back.Close()
		}
		rest <- err
	}()
	_, err = relay(edge, back) // on this goroutine: there may be many that are idle
	if err == nil {
		err = closeWrite(edge)
	}
	if err == nil {
		err = <-rest // the other half may go on
	}
	if err == errTold {
		breakOff(edge) // else the edge takes it for a half-close, and waits for a client that is deaf
	}
}

// breakOff has a connection end in a reset.
func breakOff(c net.Conn) {
	for {
		switch t := c.(type) {
		case *greeted:
			c = t.Conn
		case interface{ NetConn() net.Conn }: // TLS
			c = t.NetConn()
		case interface{ SetLinger(sec int) error }:
			t.SetLinger(0) //nolint:errcheck // it ends either way
			return
		default:
			return
		}
	}
}

// halfOf returns what ends one direction of an upgraded connection to a machine.
func halfOf(body io.ReadCloser, machine *conn) halver {
	if t, ok := body.(*tunnel); ok {
		return t
	}
	return machine.wire
}

type halver interface{ CloseWrite() error }

func closeWrite(c any) error {
	if c, ok := c.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return http.ErrNotSupported
}
