package delay

import (
	"sync"
	"time"

	"github.com/ebbkit/ebb/internal/delay/queue"
)

// courier calls functions in order, each when it is due, on one goroutine that lives only while
// something waits.
type courier struct {
	links *Links
	stop  <-chan struct{} // when closed, waiting calls are dropped
	limit int             // most that may wait; 0 means no bound

	mu      sync.Mutex
	line    queue.Line[func()]
	running bool
}

// post calls f after the given delay. It returns false if f is dropped, because too many wait or
// the links are closed.
func (c *courier) post(after time.Duration, f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.limit > 0 && c.line.Len() >= c.limit {
		return false
	}
	if !c.running {
		if !c.links.enter() {
			return false
		}
		c.running = true
		go c.run()
	}
	// The goroutine sleeps until the head of the line is due. A push never changes the head, so
	// nobody has to be woken.
	c.line.Push(time.Now(), after, f)
	return true
}

func (c *courier) run() {
	defer c.links.wg.Done()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		f, wait := c.next()
		switch {
		case f != nil:
			f()
		case wait == 0:
			return
		default:
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-c.stop:
				c.drop()
				return
			}
		}
	}
}

// next returns the function that is due, or how long until one is. If there is neither, the
// goroutine must end.
func (c *courier) next() (f func(), wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	due, ok := c.line.Next()
	if !ok {
		c.running = false
		return nil, 0
	}
	select {
	case <-c.stop:
		c.line, c.running = queue.Line[func()]{}, false
		return nil, 0
	default:
	}
	if wait = time.Until(due); wait > 0 {
		return nil, wait
	}
	return c.line.Pop(), 0
}

func (c *courier) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.line, c.running = queue.Line[func()]{}, false
}
