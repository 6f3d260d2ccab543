package longconn

import (
	"bytes"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/pool"
	"github.com/ebbkit/ebb/balance"
)

// A call from which no message has come is a request still, however long it takes.
func TestACallWithoutAMessageIsARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := new(Register)
		req := request(t, "POST", "http://web/", nil)
		req.ProtoMajor = 2
		resp := &http.Response{
			StatusCode: 200, ContentLength: -1,
			Header: http.Header{"Content-Type": {"application/grpc"}},
			Body:   io.NopCloser(bytes.NewReader(grpcMessage(0, 3))),
		}
		c.Watch(time.Second, m1.Key(), req, resp, &pool.Exchange{}, nil)
		time.Sleep(time.Hour)
		if n := c.Long(m1, balance.ClassStream); n != 0 {
			t.Errorf("%d long connections before a message has come", n)
		}
		resp.Body.Read(make([]byte, 100))
		if n := c.Long(m1, balance.ClassStream); n != 1 {
			t.Errorf("%d long connections after a message", n)
		}
	})
}

// What is told when it is over already ends nothing: its connection serves another request by then.
func TestToldTooLate(t *testing.T) {
	c := new(Register)
	far := &pool.Conn{}
	o := c.Watch(time.Second, m1.Key(), request(t, "GET", "http://web/", nil), &http.Response{StatusCode: 200, ContentLength: -1,
		Header: http.Header{"Content-Type": {"text/event-stream"}}, Body: io.NopCloser(strings.NewReader("data: 1\n"))}, &pool.Exchange{Used: pool.Used{Conn: far}}, nil).(*answer)
	if n := c.Long(m1, balance.ClassAll); n != 1 {
		t.Fatalf("%d long connections", n)
	}
	o.Leave()
	o.notify(time.Hour) // far has nothing to be closed: that would panic
	o.force()
	if n := c.Long(m1, balance.ClassAll); n != 0 || len(c.machines) != 0 {
		t.Errorf("%d long connections, %d machines remembered", n, len(c.machines))
	}
}

// given is a connection that keeps the times it was given to end.
type given struct{ within []time.Duration }

func (g *given) notify(force time.Duration) { g.within = append(g.within, force) }

func (g *given) lasts() bool { return true }

// A connection is told once: the time that it was given first is its time.
func TestAConnectionIsToldOnce(t *testing.T) {
	c, g := new(Register), &given{}
	c.add(
		&long{
			in: c, machine: balance.MachineKey{App: "web", ID: "m1"}, class: balance.ClassWebSocket, endable: g,
		},
	)
	for _, within := range []time.Duration{time.Minute, time.Hour} {
		c.Notify(m1, balance.ClassAll, within)
		c.NotifyIdle(m1, balance.ClassAll, 0, within)
	}
	if want := []time.Duration{30 * time.Second}; !slices.Equal(g.within, want) {
		t.Errorf("told to end within %v, want %v", g.within, want)
	}
}

func TestWatchingARequestDoesNotAllocate(t *testing.T) {
	c := new(Register)
	req := request(t, "GET", "http://web/", nil)
	for _, resp := range []*http.Response{
		{StatusCode: 200, ContentLength: 5, Header: http.Header{"Content-Type": {"text/event-stream"}}},
		{StatusCode: 200, ContentLength: -1, Header: http.Header{"Content-Type": {"text/html; charset=utf-8"}}},
		{StatusCode: 200, ContentLength: -1, Header: http.Header{}},
	} {
		if n := testing.AllocsPerRun(100, func() {
			if c.Watch(time.Second, m1.Key(), req, resp, nil, nil) != nil {
				t.Error("a request is long")
			}
		}); n != 0 {
			t.Errorf("%v allocs", n)
		}
	}
}

func TestClassesHaveAPlaceInTheRegister(t *testing.T) {
	c := new(Register)
	var want []balance.Class
	for i := range classCount {
		class := balance.Class(1 << i)
		want = append(want, class)
		c.add(
			&long{
				in: c, machine: balance.MachineKey{App: "web", ID: "m1"}, class: class, endable: &tunnel{},
			},
		)
	}
	if slices.Max(want) != balance.ClassTCP || c.Long(m1, balance.ClassAll) != classCount {
		t.Errorf(
			"the register has %d places and knows %d connections", classCount, c.Long(m1, balance.ClassAll),
		)
	}
}
