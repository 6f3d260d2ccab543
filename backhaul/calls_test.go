package backhaul

import (
	"bytes"
	"encoding/binary"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// calls is a machine that speaks gRPC, as far as that matters here: it echoes messages, greets before, and ends the call
// with its own status when the client has no more.
type calls struct{ heard atomic.Int64 }

func (c *calls) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/grpc+proto")
	w.Write(grpcMessage(0, 3))
	http.NewResponseController(w).Flush()
	var b []byte
	var err error
	for err == nil {
		var buf [100]byte
		var n int
		n, err = r.Body.Read(buf[:])
		b = append(b, buf[:n]...)
		c.heard.Add(int64(n))
	}
	if r.URL.Path != "/talk" { // it goes on although the client has said all
		<-r.Context().Done()
		return
	}
	w.Write(b)
	w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
	if err != io.EOF {
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "13")
	}
}

func call(t *testing.T, r *rig, path string, body io.Reader) *http.Response {
	t.Helper()
	req := request(t, "POST", r.front.URL+path, body)
	req.Header.Set("Content-Type", "application/grpc")
	resp, err := r.front.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	expect(t, "the client", resp.Body, string(grpcMessage(0, 3)))
	return resp
}

func TestAGRPCCallIsTold(t *testing.T) {
	for _, local := range []bool{false, true} {
		for _, c := range []struct {
			name, path   string
			before, rest []byte // of the client, before it is told and after
			sent         bool   // the client has said all before
			within       time.Duration
			status       string
			back         []byte
		}{
			{"the machine ends it", "/talk", nil, nil, false, time.Hour, "0", nil},
			{"after a message", "/talk", grpcMessage(0, 4), nil, false, time.Hour, "0", grpcMessage(0, 4)},
			{"in the middle of a message", "/talk", grpcMessage(0, 7)[:6], append(grpcMessage(0, 7)[6:], grpcMessage(0, 9)...), false, time.Hour, "0", grpcMessage(0, 7)},
			{"the client has said all", "/watch", grpcMessage(0, 4), nil, true, time.Hour, "14", nil},
			{"a deaf machine", "/deaf", grpcMessage(0, 4), nil, false, 20 * time.Millisecond, "14", nil},
		} {
			t.Run(c.name, func(t *testing.T) {
				r, conns := longRig(t, local, true, time.Nanosecond)
				var machine calls
				r.serve("m1", &machine)
				pr, pw := io.Pipe()
				defer pw.Close()
				go func() {
					pw.Write(c.before)
					if c.sent {
						pw.Close()
					}
				}()
				other, otherEnd := io.Pipe()
				resp := call(t, r, c.path, pr)
				beside := call(t, r, "/talk", other)
				r.long(conns, balance.ClassStream, 2)
				otherEnd.Close()
				if rest, err := io.ReadAll(beside.Body); len(rest) > 0 || err != nil || beside.Trailer.Get("Grpc-Status") != "0" {
					t.Errorf("another call: %q, %v, %v", rest, err, beside.Trailer)
				}
				r.long(conns, balance.ClassStream, 1)
				for machine.heard.Load() != int64(len(c.before)) {
					<-time.After(time.Millisecond)
				}
				if c.sent {
					r.spent(conns)
				}
				conns.Notify(m1, balance.ClassStream, c.within)
				if c.rest != nil {
					pw.Write(c.rest)
				}
				rest, err := io.ReadAll(resp.Body)
				if !bytes.Equal(rest, c.back) || err != nil || resp.Trailer.Get("Grpc-Status") != c.status {
					t.Errorf("got %q, %v, %v; want %q and status %s", rest, err, resp.Trailer, c.back, c.status)
				}
				resp.Body.Close()
				pr.CloseWithError(io.ErrClosedPipe)
				r.quiet()
				r.long(conns, balance.ClassAll, 0)
			})
		}
	}
}

// spent waits until a call's machine has got the end of the client's messages.
func (r *rig) spent(c *Connections) {
	all := func() bool { return c.register.RequestsEnded(m1, balance.ClassStream) }
	for deadline := time.Now().Add(30 * time.Second); !all() && time.Now().Before(deadline); {
		<-time.After(time.Millisecond)
	}
}

// A gRPC call is a request at first.
func TestAGRPCCallIsLongInTime(t *testing.T) {
	r, conns := longRig(t, false, true, time.Hour)
	r.serve("m1", new(calls))
	pr, pw := io.Pipe()
	resp := call(t, r, "/talk", pr)
	conns.Notify(m1, balance.ClassStream, time.Nanosecond)
	if n := conns.Long(m1, balance.ClassStream); n != 0 {
		t.Errorf("%d long connections", n)
	}
	pw.Write(grpcMessage(0, 5))
	pw.Close()
	if rest, err := io.ReadAll(resp.Body); !bytes.Equal(rest, grpcMessage(0, 5)) || err != nil || resp.Trailer.Get("Grpc-Status") != "0" {
		t.Errorf("got %q, %v, %v", rest, err, resp.Trailer)
	}
	r.quiet()
}

func grpcMessage(flag byte, payload int) []byte {
	b := binary.BigEndian.AppendUint32([]byte{flag}, uint32(payload))
	return append(b, bytes.Repeat([]byte{1}, payload)...)
}
