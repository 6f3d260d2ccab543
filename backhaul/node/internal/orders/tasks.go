package orders

import "sync"

// Tasks are goroutines that outlast the call that started them, but not their node. The zero value
// is ready to use.
type Tasks struct {
	mu   sync.Mutex
	over bool
	all  sync.WaitGroup
}

// Go runs f, or reports false if Wait was called.
func (t *Tasks) Go(f func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.over {
		t.all.Go(f)
	}
	return !t.over
}

// Wait lets no further task start and waits for those that run.
func (t *Tasks) Wait() {
	t.mu.Lock()
	t.over = true
	t.mu.Unlock()
	t.all.Wait()
}
