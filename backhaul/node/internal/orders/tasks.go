package orders

import "sync"

// Tasks are goroutines that outlast what began them, but not their node. The zero value is ready.
type Tasks struct {
	mu   sync.Mutex
	over bool
	all  sync.WaitGroup
}

// Go runs f, and reports false where all is over.
func (t *Tasks) Go(f func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.over {
		t.all.Go(f)
	}
	return !t.over
}

// Wait lets nothing begin any more, and waits for what runs.
func (t *Tasks) Wait() {
	t.mu.Lock()
	t.over = true
	t.mu.Unlock()
	t.all.Wait()
}
