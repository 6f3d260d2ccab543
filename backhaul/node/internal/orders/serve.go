package orders

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale"
)

// Owner is what a node does when it is asked. Its funcs are called from several goroutines and
// return when their context ends.
type Owner struct {
	Start  func(context.Context, balance.Machine) (balance.StartAnswer, error)
	Recall func(context.Context, balance.Machine) error
	Stop   func(context.Context, balance.Machine, downscale.Order) error
	// Row returns the row of a machine that the node owns.
	Row func(balance.AppID, balance.MachineID) (Row, bool)
	// App returns an app's settings and the rows of the machines that the node owns.
	App func(balance.AppID) (balance.App, []Row, bool)
	// OnChange registers changed, which is called when rows of an app have changed, until stop is
	// called.
	OnChange func(changed func(balance.AppID)) (stop func())
	// Ask and Back handle what a node says about slots.
	Ask  func(from balance.NodeID, app balance.AppID, parked int)
	Back func(from balance.NodeID, g balance.Grant)
}

// Server carries out the orders of other nodes. Make one with [NewServer]; all methods are safe for
// concurrent use.
type Server struct {
	owner  Owner
	ctx    context.Context // of conversations and of answers that go on
	end    context.CancelFunc
	tokens tokens

	mu    sync.Mutex
	talks map[balance.NodeID]*talk
}

// NewServer returns a server. It starts nothing.
func NewServer(o Owner) *Server {
	s := &Server{owner: o, talks: map[balance.NodeID]*talk{}}
	s.ctx, s.end = context.WithCancel(context.Background())
	return s
}

// Close ends the conversations and the answers that only follow a machine's row. Orders are still
// served afterwards, and end as soon as their result is known.
func (s *Server) Close() { s.end() }

// followFor bounds an order, and with it how long a row is followed: as long as any boot may take.
const followFor = 10 * time.Minute

// Serve serves one order; it is for HandlerConfig.Orders of package backhaul.
func (s *Server) Serve(from balance.NodeID, w http.ResponseWriter, r *http.Request) {
	c := http.NewResponseController(w)
	c.EnableFullDuplex() //nolint:errcheck // HTTP/2 is always full duplex
	w.Header().Set("Content-Type", "application/jsonlines")
	to := &replies{w: w, c: c}
	kind := Kind(strings.TrimPrefix(r.URL.Path, "/"))
	in := bufio.NewReaderSize(r.Body, 4<<10)
	if kind == KindSlots {
		s.talk(r.Context(), from, in, to)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), followFor)
	defer cancel()
	o, err := read[Order](in)
	if err != nil {
		to.fail(err)
		return
	}
	if err := s.serve(ctx, from, kind, o, to); err != nil {
		to.fail(err)
		return
	}
	to.send(Reply{Done: true})
}

func (s *Server) serve(
	ctx context.Context, from balance.NodeID, kind Kind, o Order, to *replies,
) error {
	switch kind {
	case KindApp:
		return s.app(o.App, to)
	case KindStart, KindReady, KindRecall, KindStop:
	default:
		return fmt.Errorf("%w: %q; there are start, ready, recall, stop, app and slots", ErrUnknown, kind)
	}
	if o.Machine == nil {
		return fmt.Errorf("orders: %s without a machine", kind)
	}
	m := *o.Machine
	if _, ok := s.owner.Row(m.App, m.ID); !ok {
		return fmt.Errorf("%w: %v", ErrNotHere, m.Key())
	}
	result, err := s.tokens.once(ctx, string(from)+" "+o.Token, o.Token != "", func() (Reply, error) {
		return s.carryOut(ctx, kind, m, o)
	})
	if err != nil {
		return err
	}
	if result.Answer != nil {
		to.send(result)
	}
	if kind == KindStart || kind == KindReady {
		return s.follow(ctx, m, result.Answer != nil && *result.Answer == balance.StartRemembered, to)
	}
	if row, ok := s.owner.Row(m.App, m.ID); ok {
		to.send(Reply{Row: &row})
	}
	return nil
}

// carryOut does what an order says.
func (s *Server) carryOut(
	ctx context.Context, kind Kind, m balance.Machine, o Order,
) (r Reply, err error) {
	switch kind {
	case KindStart:
		answer, err := s.owner.Start(ctx, m)
		return Reply{Answer: &answer}, err
	case KindRecall:
		return r, s.owner.Recall(ctx, m)
	case KindStop:
		var how downscale.Order
		if o.Stop != nil {
			how = *o.Stop
		}
		return r, s.owner.Stop(ctx, m, how)
	}
	return r, nil
}

func (s *Server) app(id balance.AppID, to *replies) error {
	app, rows, ok := s.owner.App(id)
	if !ok {
		return fmt.Errorf("%w: %q", balance.ErrNoApp, id)
	}
	to.send(Reply{App: &app})
	for i := range rows {
		to.send(Reply{Row: &rows[i]})
	}
	return nil
}

// follow sends a machine's row whenever it changes, as long as the machine is on its way to being
// ready. A remembered start begins when the stop in progress is over.
func (s *Server) follow(
	ctx context.Context, m balance.Machine, remembered bool, to *replies,
) error {
	changed := make(chan struct{}, 1)
	stop := s.owner.OnChange(func(app balance.AppID) {
		if app == m.App {
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	})
	defer stop()
	var last Row
	for {
		row, ok := s.owner.Row(m.App, m.ID)
		if !ok {
			return fmt.Errorf("%w: %v has been removed", ErrNotHere, m.Key())
		}
		if row != last {
			if to.send(Reply{Row: &row}) != nil {
				return nil // nobody reads the answer
			}
			last = row
		}
		switch state := row.Machine.State; {
		case state == balance.StateStarting:
			remembered = false
		case state == balance.StateStopping, state == balance.StateSuspending:
		case remembered && (state == balance.StateStopped || state == balance.StateSuspended):
		default:
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		case <-s.ctx.Done():
			return nil
		}
	}
}

// replies are the lines of an answer. It is for one goroutine.
type replies struct {
	w http.ResponseWriter
	c *http.ResponseController
}

func (t *replies) send(r Reply) error {
	b, err := line(r)
	if err != nil {
		return err
	}
	if _, err := t.w.Write(b); err != nil {
		return err
	}
	return t.c.Flush()
}

// fail ends an answer with an error.
func (t *replies) fail(err error) {
	if err == io.EOF {
		err = errors.New("orders: an order without a line")
	}
	t.send(Reply{Err: errorOf(err)}) //nolint:errcheck // nobody may be reading
}

// tokensKept is how many results are kept for orders that arrive again. That happens within
// seconds, if at all.
const tokensKept = 4096

// tokens holds the results of orders by their tokens.
type tokens struct {
	mu   sync.Mutex
	kept map[string]*result
	ring [tokensKept]string // oldest at next
	next int
}

type result struct {
	done  chan struct{}
	reply Reply
	err   error
}

// once returns what do returned for the first order with that token, and waits for it if need be. A
// first order that was cancelled before it was done does not count.
func (t *tokens) once(
	ctx context.Context, token string, named bool, do func() (Reply, error),
) (Reply, error) {
	if !named {
		return do()
	}
	for {
		r, first := t.result(token)
		if first {
			r.reply, r.err = do()
			if ctx.Err() != nil && r.err != nil {
				t.forget(token, r)
			}
			close(r.done)
			return r.reply, r.err
		}
		select {
		case <-r.done:
		case <-ctx.Done():
			return Reply{}, context.Cause(ctx)
		}
		if !errors.Is(r.err, context.Canceled) && !errors.Is(r.err, context.DeadlineExceeded) {
			return r.reply, r.err
		}
		t.forget(token, r)
	}
}

func (t *tokens) result(token string) (r *result, first bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r, ok := t.kept[token]; ok {
		return r, false
	}
	if t.kept == nil {
		t.kept = map[string]*result{}
	}
	r = &result{done: make(chan struct{})}
	delete(t.kept, t.ring[t.next])
	t.ring[t.next] = token
	t.next = (t.next + 1) % tokensKept
	t.kept[token] = r
	return r, true
}

func (t *tokens) forget(token string, r *result) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.kept[token] == r {
		delete(t.kept, token)
	}
}
