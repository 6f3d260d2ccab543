package machine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/contain"
)

// bounded calls f in a goroutine of its own, makes a panic an error, and gives up on it when it is
// not back some time after ctx has ended. That goroutine is then lost, with whatever blocks it.
func (s *Starter) bounded(
	ctx context.Context, patience time.Duration, f func(context.Context) error,
) error {
	back := make(chan error, 1)
	go func() {
		_, err := contain.Call(func() (struct{}, error) { return struct{}{}, f(ctx) })
		back <- err
	}()
	select {
	case err := <-back:
		return err
	case <-ctx.Done():
	}
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case err := <-back:
		return err
	case <-t.C:
		return errBlocked
	}
}

// callMax bounds one call of the driver's Start.
const callMax = 30 * time.Second

var (
	errBlocked = errors.New("the driver did not come back")
	errEarlier = errors.New("it has not come back from an earlier call")
	errSlow    = errors.New("it was not started")
)

// driverStart calls the driver's Start. A driver that comes back after it has been given up finds
// its machine stopped again.
func (s *Starter) driverStart(ctx context.Context, h *hosted, r *run) (b Booting, err error) {
	if !s.claim(h) {
		return b, errEarlier
	}
	call, cancel := context.WithTimeout(ctx, callMax)
	defer cancel()
	var mu sync.Mutex
	gone := false
	m := r.m
	err = s.bounded(call, time.Second, func(ctx context.Context) error {
		defer s.unclaim(h)
		got, err := s.driver.Start(ctx, m)
		mu.Lock()
		late := gone
		if !late {
			b = got
		}
		mu.Unlock()
		if late && err == nil {
			return s.driver.Stop(context.WithoutCancel(ctx), m)
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

// claim notes that the driver is called for a machine: one call at a time.
func (s *Starter) claim(h *hosted) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.calling {
		return false
	}
	h.calling = true
	return true
}

func (s *Starter) unclaim(h *hosted) {
	s.mu.Lock()
	h.calling = false
	s.mu.Unlock()
}

// abandon stops a machine that did not become ready, so that no credit is left while it may still
// run, and fails its start.
func (s *Starter) abandon(h *hosted, r *run, fault string) {
	if _, exited := errors.AsType[*ended](context.Cause(r.ctx)); !exited && s.claim(h) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), stopTimeout)
		err := s.bounded(ctx, time.Second, func(ctx context.Context) error {
			defer s.unclaim(h)
			return s.driver.Stop(ctx, r.m)
		})
		cancel()
		if err != nil {
			fault += fmt.Sprintf("; and stopping it failed: %v", err)
		}
	}
	s.fail(r.m, r.gate, r.token, fault)
}
