package machine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ebbkit/ebb/balance"
)

const (
	// callMax bounds one call of the driver's Start, and of its List.
	callMax = 30 * time.Second
	// stopTimeout bounds the stop of a machine that failed to start.
	stopTimeout = 10 * time.Second
	// callPatience is how long to wait for a call that does not end with its context.
	callPatience = time.Second
)

var (
	errBlocked = errors.New("the driver did not come back")
	errEarlier = errors.New("it has not come back from an earlier call")
	errSlow    = errors.New("it was not started")
)

// bounded calls f in a goroutine of its own, makes a panic an error, and gives up when f has not
// returned callPatience after ctx has ended. That goroutine is then leaked, with whatever blocks
// it.
func bounded(ctx context.Context, f func(context.Context) error) error {
	back := make(chan error, 1)
	go func() { back <- contained(func() error { return f(ctx) }) }()
	select {
	case err := <-back:
		return err
	case <-ctx.Done():
	}
	t := time.NewTimer(callPatience)
	defer t.Stop()
	select {
	case err := <-back:
		return err
	case <-t.C:
		return errBlocked
	}
}

// contained calls f and returns its panic as an error: a driver's bug affects one machine only.
func contained(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return f()
}

// calls makes the calls of a driver: one at a time for each machine.
type calls struct {
	driver Driver

	mu   sync.Mutex
	busy map[balance.MachineKey]bool // machines for which a call has not returned
}

// claim records that the driver is called for a machine. It reports false while an earlier call for
// it has not returned.
func (c *calls) claim(m balance.Machine) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy[m.Key()] {
		return false
	}
	if c.busy == nil {
		c.busy = map[balance.MachineKey]bool{}
	}
	c.busy[m.Key()] = true
	return true
}

func (c *calls) release(m balance.Machine) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.busy, m.Key())
}

// start calls the driver's Start. If a call succeeds after it has been given up, the machine is
// stopped again.
func (c *calls) start(ctx context.Context, m balance.Machine) (b Booting, err error) {
	if !c.claim(m) {
		return b, errEarlier
	}
	call, cancel := context.WithTimeout(ctx, callMax)
	defer cancel()
	var mu sync.Mutex
	gone := false
	err = bounded(call, func(ctx context.Context) error {
		defer c.release(m)
		got, err := c.driver.Start(ctx, m)
		mu.Lock()
		late := gone
		if !late {
			b = got
		}
		mu.Unlock()
		if late && err == nil {
			return c.driver.Stop(context.WithoutCancel(ctx), m)
		}
		return err
	})
	if errors.Is(err, errBlocked) {
		mu.Lock()
		gone = true
		mu.Unlock()
	}
	if err != nil && call.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w within %v: %w", errSlow, callMax, err)
	}
	if err != nil {
		return Booting{}, err
	}
	return b, nil
}

// stop calls the driver's Stop for a machine that has been claimed, and releases it. It goes on
// when ctx ends.
func (c *calls) stop(ctx context.Context, m balance.Machine) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	return bounded(ctx, func(ctx context.Context) error {
		defer c.release(m)
		return c.driver.Stop(ctx, m)
	})
}

// inspect returns what is wrong with a machine, if the driver says so.
func (c *calls) inspect(ctx context.Context, m balance.Machine, limit time.Duration) error {
	d, ok := c.driver.(Inspector)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := bounded(ctx, func(ctx context.Context) error { return d.Inspect(ctx, m) })
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, errBlocked) {
		return nil // it does not say
	}
	return err
}

// describe returns what the driver sees of a machine, as far as it says.
func (c *calls) describe(ctx context.Context, m balance.Machine, limit time.Duration) Description {
	d, ok := c.driver.(Describer)
	if !ok {
		return Description{}
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	said := make(chan Description, 1) // a driver that is given up may still write here
	err := bounded(ctx, func(ctx context.Context) error {
		got, err := d.Describe(ctx, m)
		if err == nil {
			said <- got
		}
		return err
	})
	if err != nil {
		return Description{}
	}
	return <-said
}

// list returns the machines that exist.
func (c *calls) list(ctx context.Context, d Lister) ([]Running, error) {
	ctx, cancel := context.WithTimeout(ctx, callMax)
	defer cancel()
	said := make(chan []Running, 1)
	err := bounded(ctx, func(ctx context.Context) error {
		got, err := d.List(ctx)
		if err == nil {
			said <- got
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return <-said, nil
}
