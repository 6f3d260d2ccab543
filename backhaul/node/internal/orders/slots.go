package orders

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// grantsWaiting bounds the grants that wait to be sent to one node. A grant beyond it is lost, and
// returns to its owner when it expires.
const grantsWaiting = 4096

// talk is the conversation about slots that another node holds open with this one.
type talk struct {
	grants chan balance.Grant
	end    context.CancelFunc
}

// Give sends a grant to a node if that has a conversation with this one.
func (s *Server) Give(to balance.NodeID, g balance.Grant) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.talks[to]; t != nil {
		select {
		case t.grants <- g:
		default:
		}
	}
}

// talk serves a conversation until either side ends it or the node begins another one.
func (s *Server) talk(ctx context.Context, from balance.NodeID, in *bufio.Reader, to *replies) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	t := &talk{grants: make(chan balance.Grant, grantsWaiting), end: cancel}
	s.mu.Lock()
	if before := s.talks[from]; before != nil {
		before.end()
	}
	s.talks[from] = t
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.talks[from] == t {
			delete(s.talks, from)
		}
	}()
	if to.send(Reply{}) != nil { // tells the other side that the conversation is open
		return
	}
	heard := make(chan error, 1)
	go func() { // until the body ends, which it does with the request
		for {
			o, err := read[Order](in)
			if err != nil {
				heard <- err
				return
			}
			if o.Ask != nil {
				s.owner.Ask(from, o.Ask.App, o.Ask.Parked)
			}
			if o.Back != nil {
				s.owner.Back(from, *o.Back)
			}
		}
	}()
	for {
		select {
		case g := <-t.grants:
			if to.send(Reply{Grant: &g}) != nil {
				return
			}
		case err := <-heard:
			if err != io.EOF && ctx.Err() == nil {
				to.fail(err)
			}
			return
		case <-ctx.Done():
			return
		case <-s.ctx.Done():
			return
		}
	}
}

const (
	// talkIdle is how long a conversation stays open in which this side says nothing.
	talkIdle = 10 * time.Second
	// talkAgain is the first backoff after a conversation broke off; each further one doubles it,
	// up to talkAgainMax.
	talkAgain, talkAgainMax = 100 * time.Millisecond, 2 * time.Second
)

// Talks are the conversations about slots that a node holds with owners. Make them with [NewTalks].
type Talks struct {
	send  func(balance.NodeID, *http.Request) (*http.Response, error)
	grant func(balance.Grant)

	mu   sync.Mutex
	with map[balance.NodeID]*said
	ctx  context.Context
	all  *Tasks
}

// said is what waits to be sent to an owner: the last number of each app, and the grants given
// back.
type said struct {
	mu    sync.Mutex
	parts map[balance.AppID]int
	backs []balance.Grant
	wake  chan struct{}
}

// NewTalks returns conversations that call grant with each grant that arrives. They end with ctx,
// and their goroutines are among all.
func NewTalks(
	ctx context.Context, all *Tasks,
	send func(balance.NodeID, *http.Request) (*http.Response, error), grant func(balance.Grant),
) *Talks {
	return &Talks{send: send, grant: grant, with: map[balance.NodeID]*said{}, ctx: ctx, all: all}
}

// Ask tells an owner how many requests of an app wait here for it. It does not wait.
func (t *Talks) Ask(owner balance.NodeID, app balance.AppID, parked int) {
	t.say(owner, func(s *said) { s.parts[app] = parked })
}

// Back gives a slot back to its owner. It does not wait.
func (t *Talks) Back(owner balance.NodeID, g balance.Grant) {
	t.say(owner, func(s *said) {
		if len(s.backs) < grantsWaiting {
			s.backs = append(s.backs, g)
		}
	})
}

func (t *Talks) say(owner balance.NodeID, note func(*said)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil {
		return
	}
	s := t.with[owner]
	if s == nil {
		s = &said{parts: map[balance.AppID]int{}, wake: make(chan struct{}, 1)}
		t.with[owner] = s
		t.all.Go(func() { t.hold(owner, s) })
	}
	s.mu.Lock()
	note(s)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// hold keeps a conversation open until it has been idle for talkIdle.
func (t *Talks) hold(owner balance.NodeID, s *said) {
	pause := talkAgain
	for {
		began := time.Now()
		err := t.talk(owner, s)
		if errors.Is(err, errIdle) && t.forget(owner, s) || t.ctx.Err() != nil {
			return
		}
		if time.Since(began) > talkIdle {
			pause = talkAgain
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, talkAgainMax)
		case <-t.ctx.Done():
			return
		}
	}
}

var errIdle = errors.New("nothing is said")

// forget ends the conversation for good, unless something waits to be sent.
func (t *Talks) forget(owner balance.NodeID, s *said) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.parts)+len(s.backs) > 0 {
		return false
	}
	delete(t.with, owner)
	return true
}

// take returns the lines that wait to be sent.
func (s *said) take() (lines []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for app, n := range s.parts {
		b, _ := line(Order{Ask: &Ask{app, n}}) // it never fails
		lines = append(lines, b...)
	}
	for i := range s.backs {
		b, _ := line(Order{Back: &s.backs[i]})
		lines = append(lines, b...)
	}
	clear(s.parts)
	s.backs = s.backs[:0]
	return lines
}

// talk holds one conversation with an owner.
func (t *Talks) talk(owner balance.NodeID, s *said) error {
	ctx, cancel := context.WithCancel(t.ctx)
	defer cancel()
	body, say := io.Pipe()
	defer say.Close()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "/"+string(KindSlots), body)
	if err != nil {
		return err
	}
	resp, err := t.send(owner, req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := refused(resp); err != nil {
		return err
	}
	heard := make(chan error, 1)
	t.all.Go(func() { // it is refused only once ctx has ended
		in := bufio.NewReaderSize(resp.Body, 4<<10)
		for {
			r, err := read[Reply](in)
			switch {
			case err != nil:
				heard <- err
				return
			case r.Err != nil:
				heard <- r.Err.err()
				return
			case r.Grant != nil:
				t.grant(*r.Grant)
			}
		}
	})
	idle := time.NewTimer(talkIdle)
	defer idle.Stop()
	for {
		select {
		case <-s.wake:
			idle.Reset(talkIdle)
			if lines := s.take(); len(lines) > 0 {
				if _, err := say.Write(lines); err != nil {
					return err
				}
			}
		case err := <-heard:
			return err
		case <-idle.C:
			return errIdle
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
