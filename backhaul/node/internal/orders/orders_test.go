package orders

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale"
	"github.com/ebbkit/ebb/internal/nettest"
)

// pair is a client and the node that it asks, over HTTP/2 in memory.
type pair struct {
	t      *testing.T
	at     *nettest.Pipes
	server *Server
	client *Client
	talks  *Talks
	rows   chan Row
	grants chan balance.Grant
	cut    atomic.Int32 // that many answers break off before their first line
	tr     *http.Transport
	web    *http.Server
	end    context.CancelFunc
	all    Tasks
}

func newPair(t *testing.T, o Owner) *pair {
	p := &pair{
		t: t, at: nettest.NewPipes(), rows: make(chan Row, 100), grants: make(chan balance.Grant, 100),
	}
	if o.Row == nil {
		o.Row = func(app balance.AppID, id balance.MachineID) (Row, bool) {
			return Row{Machine: balance.Machine{App: app, ID: id}}, id != "stranger"
		}
	}
	if o.OnChange == nil {
		o.OnChange = func(func(balance.AppID)) func() { return func() {} }
	}
	p.server = NewServer(o)
	h2 := new(http.Protocols)
	h2.SetUnencryptedHTTP2(true)
	p.web = &http.Server{
		Protocols: h2,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if p.cut.Add(-1) >= 0 {
				p.server.Serve("edge", httptest.NewRecorder(), r) // carried out, but the answer is lost
				panic(http.ErrAbortHandler)
			}
			p.server.Serve("edge", w, r)
		}),
	}
	go p.web.Serve(p.at)
	p.tr = &http.Transport{
		Protocols:   h2,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return p.at.Dial(ctx) },
	}
	send := func(node balance.NodeID, r *http.Request) (*http.Response, error) {
		r.URL.Scheme, r.URL.Host = "http", string(node)
		return p.tr.RoundTrip(r)
	}
	ctx, end := context.WithCancel(t.Context())
	p.end = end
	p.client = NewClient(ctx, &p.all, send, func(r Row) { p.rows <- r })
	p.talks = NewTalks(ctx, &p.all, send, func(g balance.Grant) { p.grants <- g })
	return p
}

func (p *pair) close() {
	p.end()
	p.server.Close()
	p.all.Wait()
	p.tr.CloseIdleConnections()
	p.web.Close()
	p.at.Close()
}

var m1 = balance.Machine{
	ID: "m1", App: "web", Region: "home", Owner: "worker", Epoch: 3, CordonGen: 2,
}

// A start is answered when it is accepted, and its rows are sent until the machine is ready.
func TestAStartTellsTheRowUntilItIsReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		row := Row{Machine: m1, Incarnation: 7}
		var changed func(balance.AppID)
		set := func(s balance.State, fault string) {
			mu.Lock()
			row.Machine.State, row.Machine.Fault = s, fault
			f := changed
			mu.Unlock()
			if f != nil {
				f("web")
			}
		}
		p := newPair(t, Owner{
			Start: func(_ context.Context, m balance.Machine) (balance.StartAnswer, error) {
				if m.Epoch != 3 {
					t.Errorf("it sees epoch %d", m.Epoch)
				}
				set(balance.StateStarting, "")
				return balance.StartAccepted, nil
			},
			Row: func(balance.AppID, balance.MachineID) (Row, bool) {
				mu.Lock()
				defer mu.Unlock()
				return row, true
			},
			OnChange: func(f func(balance.AppID)) func() {
				mu.Lock()
				defer mu.Unlock()
				changed = f
				return func() {}
			},
		})
		ctx, cancel := context.WithCancel(t.Context())
		a, err := p.client.Start(ctx, m1)
		if a != balance.StartAccepted || err != nil {
			t.Fatal(a, err)
		}
		cancel() // the start outlives the caller
		synctest.Wait()
		set(balance.StateStarting, "it takes long")
		synctest.Wait()
		set(balance.StateStarted, "")
		synctest.Wait()
		var seen []string
		for len(p.rows) > 0 {
			r := <-p.rows
			seen = append(seen, fmt.Sprint(r.Machine.State, " ", r.Machine.Fault, r.Incarnation))
		}
		if got := strings.Join(seen, ", "); got != "starting 7, starting it takes long7, started 7" {
			t.Errorf("rows: %s", got)
		}
		if len(p.client.follow) != 0 {
			t.Error("it is followed on")
		}
		p.close()
	})
}

// Errors match at the caller what they matched at the owner, as far as callers distinguish errors.
func TestErrorsKeepTheirIdentity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fail error
		p := newPair(t, Owner{
			Start:  func(context.Context, balance.Machine) (balance.StartAnswer, error) { return balance.StartRefused, fail },
			Recall: func(context.Context, balance.Machine) error { return fail },
			Stop:   func(context.Context, balance.Machine, downscale.Order) error { return fail },
		})
		for _, is := range []error{balance.ErrRuns, balance.ErrNoApp, downscale.ErrBusy, context.DeadlineExceeded, errors.ErrUnsupported} {
			fail = fmt.Errorf("the machine: %w", is)
			for _, err := range []error{
				p.client.Recall(t.Context(), m1), p.client.Stop(t.Context(), m1, downscale.Order{}),
				func() error { _, err := p.client.Start(t.Context(), m1); return err }(),
			} {
				if !errors.Is(err, is) || !strings.Contains(err.Error(), fail.Error()) {
					t.Errorf("%v, want %v", err, fail)
				}
				if is != balance.ErrRuns && errors.Is(err, balance.ErrRuns) {
					t.Errorf("%v is another error besides", err)
				}
			}
		}
		fail = machine.TryAgain{After: 7 * time.Second, Err: errors.New("busy")}
		var passes interface{ RetryAfter() time.Duration }
		if err := p.client.Recall(t.Context(), m1); !errors.As(err, &passes) ||
			passes.RetryAfter() != 7*time.Second {
			t.Errorf("%v passes by itself", err)
		}
		fail = errors.New("something else")
		if err := p.client.Recall(t.Context(), m1); err == nil || err.Error() != "something else" ||
			errors.As(err, &passes) {
			t.Errorf("%v", err)
		}
		stranger := m1
		stranger.ID = "stranger"
		if err := p.client.Recall(t.Context(), stranger); !errors.Is(err, ErrNotHere) {
			t.Errorf("%v", err)
		}
		if err := p.client.do(t.Context(), "worker", "dance", Order{}, nil); !errors.Is(
			err, ErrUnknown,
		) ||
			!strings.Contains(err.Error(), `"dance"; there are start`) {
			t.Errorf("%v", err)
		}
		if _, _, err := p.client.App(t.Context(), "worker", "x"); err == nil {
			t.Error("an app that nobody has")
		}
		p.close()
	})
}

// An order whose answer was lost is retried, and carried out once.
func TestAnOrderIsCarriedOutOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stops atomic.Int32
		p := newPair(t, Owner{
			Stop: func(_ context.Context, m balance.Machine, o downscale.Order) error {
				stops.Add(1)
				if m != m1 || o.Reason != "a deploy" || o.Drain != time.Minute {
					t.Errorf("%+v %+v", m, o)
				}
				return nil
			},
		})
		p.cut.Store(1)
		if err := p.client.Stop(t.Context(), m1, downscale.Order{Reason: "a deploy", Drain: time.Minute}); err != nil {
			t.Error(err)
		}
		if n := stops.Load(); n != 1 {
			t.Errorf("it was carried out %d times", n)
		}
		if err := p.client.Stop(t.Context(), m1, downscale.Order{Reason: "a deploy", Drain: time.Minute}); err != nil ||
			stops.Load() != 2 {
			t.Errorf("another one is another one: %v, %d", err, stops.Load())
		}
		p.cut.Store(2)
		if err := p.client.Stop(t.Context(), m1, downscale.Order{Reason: "a deploy", Drain: time.Minute}); err == nil {
			t.Error("nobody answers, and it is nil")
		}
		p.close()
	})
}

// Many tokens take bounded memory.
func TestTokensAreForgotten(t *testing.T) {
	var k tokens
	for i := range 3 * tokensKept {
		k.once(t.Context(), fmt.Sprint(i), true, func() (Reply, error) { return Reply{}, nil })
	}
	if len(k.kept) != tokensKept {
		t.Errorf("%d", len(k.kept))
	}
	ctx, cancel := context.WithCancel(t.Context())
	k.once(ctx, "x", true, func() (Reply, error) { cancel(); return Reply{}, ctx.Err() })
	n := 0
	k.once(t.Context(), "x", true, func() (Reply, error) { n++; return Reply{}, nil })
	if n != 1 {
		t.Error("what was given up counts")
	}
}

// Slots go both ways over one conversation, which begins again when it breaks off, and ends when
// nothing is said for long.
func TestSlotsAreTalkedAbout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		heard := make(chan string, 100)
		p := newPair(t, Owner{
			Ask:  func(from balance.NodeID, app balance.AppID, n int) { heard <- fmt.Sprint(from, " ", app, " ", n) },
			Back: func(from balance.NodeID, g balance.Grant) { heard <- fmt.Sprint(from, " back ", g.Token) },
		})
		p.talks.Ask("worker", "web", 3)
		if got := <-heard; got != "edge web 3" {
			t.Errorf("%q", got)
		}
		p.server.Give(
			"edge", balance.Grant{App: "web", Machine: "m1", Epoch: 2, Token: 9, For: time.Second},
		)
		if g := <-p.grants; g != (balance.Grant{App: "web", Machine: "m1", Epoch: 2, Token: 9, For: time.Second}) {
			t.Errorf("%+v", g)
		}
		p.talks.Back("worker", balance.Grant{App: "web", Machine: "m1", Token: 9})
		if got := <-heard; got != "edge back 9" {
			t.Errorf("%q", got)
		}
		p.server.Give("nobody", balance.Grant{})
		p.server.mu.Lock()
		p.server.talks["edge"].end() // it breaks off
		p.server.mu.Unlock()
		synctest.Wait()
		for i := range 4 {
			p.talks.Ask("worker", "web", i)
		}
		if got := <-heard; got != "edge web 3" {
			t.Errorf("of several numbers the last counts: %q", got)
		}
		time.Sleep(2 * talkIdle)
		synctest.Wait()
		if len(p.talks.with)+len(p.server.talks) != 0 {
			t.Error("it goes on for ever")
		}
		p.talks.Ask("worker", "web", 1)
		if got := <-heard; got != "edge web 1" {
			t.Errorf("%q", got)
		}
		p.close()
	})
}

// Input that is no order costs an answer, and nothing else.
func FuzzServe(f *testing.F) {
	f.Add("start", []byte(`{"Machine":{"ID":"m1","App":"web"}}`+"\n"))
	f.Add("slots", []byte(`{"Ask":{"App":"web","Parked":3}}`+"\n"+`{"Back":{}}`+"\n"))
	f.Add("stop", []byte(`{"Token":"x","Machine":{"State":"nothing"}}`+"\n"))
	f.Add("app", []byte("{"))
	f.Add("", []byte("\n"))
	f.Fuzz(func(t *testing.T, kind string, body []byte) {
		s := NewServer(Owner{
			Start:    func(context.Context, balance.Machine) (balance.StartAnswer, error) { return balance.StartUnderway, nil },
			Recall:   func(context.Context, balance.Machine) error { return nil },
			Stop:     func(context.Context, balance.Machine, downscale.Order) error { return nil },
			Row:      func(balance.AppID, balance.MachineID) (Row, bool) { return Row{}, true },
			App:      func(balance.AppID) (balance.App, []Row, bool) { return balance.App{ID: "web"}, nil, true },
			OnChange: func(func(balance.AppID)) func() { return func() {} },
			Ask:      func(balance.NodeID, balance.AppID, int) {},
			Back:     func(balance.NodeID, balance.Grant) {},
		})
		r := httptest.NewRequest("POST", "/", bytes.NewReader(body))
		r.URL.Path = "/" + kind
		w := httptest.NewRecorder()
		s.Serve("edge", w, r)
		in := bufio.NewReader(w.Body)
		n := 0
		for {
			if _, err := read[Reply](in); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("the answer cannot be read: %v", err)
			}
			n++
		}
		if n == 0 {
			t.Error("no answer")
		}
	})
}

// A reader of lines accepts any split into pieces, and bounds the length of a line.
func FuzzLines(f *testing.F) {
	f.Add([]byte("{}\n{}\n"))
	f.Add(bytes.Repeat([]byte{'x'}, 9000))
	f.Fuzz(func(t *testing.T, text []byte) {
		in := bufio.NewReaderSize(bytes.NewReader(text), 16)
		var got []byte
		for {
			l, err := readLine(in)
			got = append(got, l...)
			if err != nil {
				break
			}
		}
		if whole := bytes.LastIndexByte(text, '\n') + 1; !bytes.Equal(got, text[:whole]) {
			t.Errorf("%q of %q", got, text)
		}
	})
}

func TestLinesAreBounded(t *testing.T) {
	in := bufio.NewReader(
		io.MultiReader(bytes.NewReader(make([]byte, maxLine+1)), strings.NewReader("\n")),
	)
	if _, err := readLine(in); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("%v", err)
	}
}
