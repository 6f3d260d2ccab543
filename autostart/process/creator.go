package process

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"syscall"

	"github.com/ebbkit/ebb/autostart/process/internal/guard"
)

// creator is one system thread that creates all children. Linux sends the parent-death signal when
// the creating thread ends, not the process, and Go ends and moves threads as it likes: so this one
// is locked and lives as long as the driver.
type creator struct {
	jobs  chan func()
	ended chan struct{}
}

func newCreator() *creator {
	c := &creator{jobs: make(chan func()), ended: make(chan struct{})}
	go func() {
		defer close(c.ended)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		for job := range c.jobs {
			job()
		}
	}()
	return c
}

// do runs f on the thread and returns what it returns.
func (c *creator) do(f func() error) error {
	result := make(chan error, 1)
	c.jobs <- func() { result <- f() }
	return <-result
}

// close ends the thread. No call of do may be under way.
func (c *creator) close() {
	close(c.jobs)
	<-c.ended
}

// spawner holds what children are created with; the first Start makes it. The zero value is ready
// for use.
type spawner struct {
	unguarded bool // Config.NoGuard

	mu      sync.Mutex // held while creator and guard are made or ended
	creator *creator
	guard   *guard.Guard // nil where it is unguarded
}

// means returns what children are created with. The first call makes it.
func (s *spawner) means() (*creator, *guard.Guard, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.creator != nil {
		return s.creator, s.guard, nil
	}
	if !s.unguarded {
		g, err := guard.Start()
		if err != nil {
			return nil, nil, fmt.Errorf(
				"%w: the program must be able to execute itself again; Config.NoGuard does without", err,
			)
		}
		s.guard = g
	}
	s.creator = newCreator()
	return s.creator, s.guard, nil
}

// close ends the thread and the guard.
func (s *spawner) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.creator != nil {
		s.creator.close()
		s.creator = nil
	}
	if s.guard != nil {
		s.guard.Close()
		s.guard = nil
	}
}

// explainStart adds a remedy to the error of a command that could not be started.
func explainStart(err error) error {
	switch {
	case errors.Is(err, syscall.ENOEXEC):
		return fmt.Errorf("%w: a script needs #! and its interpreter in the first line", err)
	case errors.Is(err, syscall.EAGAIN):
		return fmt.Errorf("%w: too many processes: raise the limit (ulimit -u) or run fewer machines", err)
	case errors.Is(err, syscall.ENOENT):
		return fmt.Errorf("%w: the program, its interpreter or Config.Dir has gone", err)
	}
	return err
}
