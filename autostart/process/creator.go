package process

import (
	"errors"
	"fmt"
	"runtime"
	"syscall"
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

// close ends the thread. No do may be under way.
func (c *creator) close() {
	close(c.jobs)
	<-c.ended
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
