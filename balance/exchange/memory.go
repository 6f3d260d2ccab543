package exchange

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// MemoryConfig says which faults a [Memory] has. The zero value loses nothing and takes no time.
type MemoryConfig struct {
	// Delay returns how long a message takes between two nodes; nil means no time.
	Delay func(from, to balance.NodeID) time.Duration
	// Jitter is added to the delay, drawn uniformly from 0 to it. It may change the order in which
	// messages arrive.
	Jitter time.Duration
	// Lose and Repeat are the fractions of messages, from 0 to 1, that are lost and that arrive
	// twice. Requests and answers may be lost, too.
	Lose, Repeat float64
	// Seed makes the random draws repeatable.
	Seed uint64
}

// Memory carries messages between nodes of one process, and is their store. It is for one process
// with several fleets and for tests: messages are delayed, lost, repeated and reordered as
// configured, and nodes can be cut off. Time is that of package time, so it runs in a synctest
// bubble.
type Memory struct {
	mu     sync.Mutex
	c      MemoryConfig
	rand   *rand.Rand
	conns  map[balance.NodeID]*Conn
	sent   uint64 // breaks ties of messages that are due together
	stored map[string]Entry
	last   uint64 // revision
	watch  map[*func(Entry)]*Conn
}

// NewMemory returns a Memory without nodes.
func NewMemory(c MemoryConfig) *Memory {
	m := &Memory{
		conns: map[balance.NodeID]*Conn{}, stored: map[string]Entry{}, watch: map[*func(Entry)]*Conn{},
	}
	m.Change(c)
	return m
}

// Change replaces the configuration for messages that are sent from now on.
func (m *Memory) Change(c MemoryConfig) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.c, m.rand = c, rand.New(rand.NewPCG(c.Seed, 0))
}

// Conn is a node's end of a [Memory]: an [Exchange] and a [Store].
type Conn struct {
	m    *Memory
	node balance.NodeID

	// under m.mu
	cut    bool
	subs   []*subscription
	serves []*service
	hooks  []*func()
	queue  []event // sorted by due and number
	timer  *time.Timer
	busy   bool // events are being delivered
}

type subscription struct {
	filter  Subject
	receive func(Message)
	off     bool
}

type service struct {
	at     Subject
	answer func([]byte) []byte
}

// event is something that a node does at a given time.
type event struct {
	due time.Time
	n   uint64
	do  func()
}

// Connect returns a node's end. Ends that it returned for that node before are cut off for good,
// like those of a process that has ended.
func (m *Memory) Connect(node balance.NodeID) *Conn {
	m.mu.Lock()
	defer m.mu.Unlock()
	if old := m.conns[node]; old != nil {
		old.cut, old.subs, old.serves, old.hooks = true, nil, nil, nil
	}
	c := &Conn{m: m, node: node}
	m.conns[node] = c
	return c
}

// Cut cuts nodes off from all others, including messages in flight. No argument means all nodes:
// the engine is down.
func (m *Memory) Cut(nodes ...balance.NodeID) { m.set(true, nodes) }

// Join connects nodes again; no argument means all.
func (m *Memory) Join(nodes ...balance.NodeID) { m.set(false, nodes) }

func (m *Memory) set(cut bool, nodes []balance.NodeID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(nodes) == 0 {
		nodes = slices.Sorted(maps.Keys(m.conns))
	}
	for _, id := range nodes {
		c := m.conns[id]
		if c == nil || c.cut == cut {
			continue
		}
		c.cut = cut
		c.queue = nil
		if !cut {
			for _, h := range c.hooks {
				c.at(time.Now(), *h)
			}
			for w, at := range m.watch {
				if at == c {
					for _, k := range slices.Sorted(maps.Keys(m.stored)) {
						e := m.stored[k]
						c.at(time.Now(), func() { (*w)(e) })
					}
				}
			}
		}
	}
}

// at schedules something for a node to do; m.mu is held.
func (c *Conn) at(due time.Time, do func()) {
	c.m.sent++
	e := event{due, c.m.sent, do}
	i, _ := slices.BinarySearchFunc(c.queue, e, func(a, b event) int {
		return cmp.Or(a.due.Compare(b.due), cmp.Compare(a.n, b.n))
	})
	c.queue = slices.Insert(c.queue, i, e)
	c.schedule()
}

func (c *Conn) schedule() {
	if c.busy || len(c.queue) == 0 {
		return
	}
	if c.timer != nil {
		c.timer.Stop()
	}
	if wait := time.Until(c.queue[0].due); wait > 0 {
		c.timer = time.AfterFunc(wait, c.run)
	} else {
		go c.run()
	}
}

// run does what is due, in order, one at a time.
func (c *Conn) run() {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	if c.busy {
		return
	}
	c.busy = true
	for len(c.queue) > 0 && !c.queue[0].due.After(time.Now()) {
		e := c.queue[0]
		c.queue[0].do, c.queue = nil, c.queue[1:]
		c.m.mu.Unlock()
		e.do()
		c.m.mu.Lock()
	}
	c.busy = false
	c.schedule()
}

// send has a node do something after the delay to it, or loses it; m.mu is held.
func (m *Memory) send(from, to *Conn, do func()) {
	if from.cut || to.cut {
		return
	}
	times := 1
	if m.c.Lose > 0 && m.rand.Float64() < m.c.Lose {
		times = 0
	}
	if m.c.Repeat > 0 && m.rand.Float64() < m.c.Repeat {
		times++
	}
	for range times {
		due := time.Now()
		if m.c.Delay != nil && from != to {
			due = due.Add(m.c.Delay(from.node, to.node))
		}
		if m.c.Jitter > 0 {
			due = due.Add(time.Duration(m.rand.Int64N(int64(m.c.Jitter) + 1)))
		}
		to.at(due, do)
	}
}

// memoryPayload is what NATS takes by default.
const memoryPayload = 1 << 20

// MaxPayload implements [Exchange].
func (c *Conn) MaxPayload() int { return memoryPayload }

// Publish implements [Exchange].
func (c *Conn) Publish(s Subject, payload []byte) error {
	if len(payload) > memoryPayload {
		return fmt.Errorf("exchange: payload of %d bytes: at most %d", len(payload), memoryPayload)
	}
	msg := Message{s, slices.Clone(payload)}
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(c.m.conns)) {
		to := c.m.conns[id]
		for _, sub := range to.subs {
			if s.Matches(sub.filter) {
				c.m.send(c, to, func() {
					if !to.canceled(sub) {
						sub.receive(msg)
					}
				})
			}
		}
	}
	return nil
}

func (c *Conn) canceled(sub *subscription) bool {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	return sub.off
}

// Subscribe implements [Exchange].
func (c *Conn) Subscribe(filter Subject, receive func(Message)) (func(), error) {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	sub := &subscription{filter: filter, receive: receive}
	c.subs = append(c.subs, sub)
	return func() {
		c.m.mu.Lock()
		defer c.m.mu.Unlock()
		sub.off = true
		c.subs = slices.DeleteFunc(c.subs, func(s *subscription) bool { return s == sub })
	}, nil
}

// Serve implements [Exchange].
func (c *Conn) Serve(at Subject, answer func([]byte) []byte) (func(), error) {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	s := &service{at, answer}
	c.serves = append(c.serves, s)
	return func() {
		c.m.mu.Lock()
		defer c.m.mu.Unlock()
		c.serves = slices.DeleteFunc(c.serves, func(o *service) bool { return o == s })
	}, nil
}

// Request implements [Exchange].
func (c *Conn) Request(ctx context.Context, to Subject, payload []byte) ([]byte, error) {
	back := make(chan []byte, 2)
	c.m.mu.Lock()
	found := false
	for _, id := range slices.Sorted(maps.Keys(c.m.conns)) {
		peer := c.m.conns[id]
		for _, s := range peer.serves {
			if found || !to.Matches(s.at) {
				continue
			}
			found = true
			question := slices.Clone(payload)
			c.m.send(c, peer, func() {
				answer := slices.Clone(s.answer(question))
				c.m.mu.Lock()
				defer c.m.mu.Unlock()
				c.m.send(peer, c, func() {
					select {
					case back <- answer:
					default:
					}
				})
			})
		}
	}
	c.m.mu.Unlock()
	if !found {
		return nil, fmt.Errorf("exchange: nobody serves %v", to)
	}
	select {
	case b := <-back:
		return b, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("exchange: %v did not answer: %w", to, ctx.Err())
	}
}

// OnReconnect implements [Exchange].
func (c *Conn) OnReconnect(reconnected func()) func() {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	c.hooks = append(c.hooks, &reconnected)
	return func() {
		c.m.mu.Lock()
		defer c.m.mu.Unlock()
		c.hooks = slices.DeleteFunc(c.hooks, func(h *func()) bool { return h == &reconnected })
	}
}

// Get implements [Store].
func (c *Conn) Get(_ context.Context, key string) (Entry, error) {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	if err := c.reach(); err != nil {
		return Entry{}, err
	}
	e, ok := c.m.stored[key]
	if !ok || e.Deleted {
		return Entry{}, fmt.Errorf("%w: %q", ErrNotFound, key)
	}
	return e, nil
}

func (c *Conn) reach() error {
	if c.cut {
		return fmt.Errorf("exchange: node %q is cut off from the store", c.node)
	}
	return nil
}

// Put implements [Store].
func (c *Conn) Put(_ context.Context, key string, value []byte, revision uint64) (uint64, error) {
	return c.write(Entry{Key: key, Value: slices.Clone(value)}, revision)
}

// Delete implements [Store].
func (c *Conn) Delete(_ context.Context, key string, revision uint64) error {
	_, err := c.write(Entry{Key: key, Deleted: true}, revision)
	return err
}

func (c *Conn) write(e Entry, revision uint64) (uint64, error) {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	if err := c.reach(); err != nil {
		return 0, err
	}
	held, ok := c.m.stored[e.Key]
	if ok = ok && !held.Deleted; !ok {
		held.Revision = 0
	}
	switch {
	case held.Revision != revision:
		return 0, fmt.Errorf(
			"%w: %q has revision %d, not %d", ErrConflict, e.Key, held.Revision, revision,
		)
	case e.Deleted && !ok:
		return 0, fmt.Errorf("%w: %q", ErrNotFound, e.Key)
	}
	c.m.last++
	e.Revision = c.m.last
	c.m.stored[e.Key] = e
	for w, at := range c.m.watch {
		if !at.cut {
			at.at(time.Now(), func() { (*w)(e) })
		}
	}
	return e.Revision, nil
}

// Watch implements [Store].
func (c *Conn) Watch(ctx context.Context, changed func(Entry)) error {
	c.m.mu.Lock()
	c.m.watch[&changed] = c
	if !c.cut {
		for _, k := range slices.Sorted(maps.Keys(c.m.stored)) {
			e := c.m.stored[k]
			c.at(time.Now(), func() { changed(e) })
		}
	}
	c.m.mu.Unlock()
	<-ctx.Done()
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	delete(c.m.watch, &changed)
	return nil
}
