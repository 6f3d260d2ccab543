package autostart

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/oslimit"
)

// diagnoseEvery is how often a boot that has not ended is looked into, as long as that may fail it;
// later every diagnoseLate.
const diagnoseEvery, diagnoseLate = time.Second, 5 * time.Second

// found keeps what the last look at a booting machine found.
type found struct {
	mu  sync.Mutex
	err error
}

func (f *found) set(err error) {
	f.mu.Lock()
	f.err = err
	f.mu.Unlock()
}

func (f *found) get() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// errMisplaced is why a start fails whose machine listens elsewhere.
type errMisplaced struct{ where, addr string }

func (e *errMisplaced) Error() string {
	return fmt.Sprintf("it listens at %s and not at %s: make it listen there, or set App.BootHint if "+
		"that takes longer", e.where, e.addr)
}

// diagnose says in the row of a machine that boots, and in the trace, what it lacks, as long as ctx
// lasts. Where it listens elsewhere and not where it should, it ends the start by fail.
func (s *Starter) diagnose(
	ctx context.Context, fail context.CancelCauseFunc, r *run, began time.Time,
) {
	t := time.NewTicker(diagnoseEvery)
	defer t.Stop()
	var place misplaced
	told := ""
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		err, age := r.found.get(), time.Since(began)
		if oslimit.NoProcess(err) {
			continue // it says nothing of the machine
		}
		d := s.describe(ctx, r)
		if r.probe.dials && s.condition(r, err) == deaf {
			grace := s.misplacedGrace(r)
			if where, failed := place.look(time.Now(), r.m.Addr, d.Listens, grace); failed {
				s.countMisplaced(r)
				fail(&errMisplaced{where, r.m.Addr})
				return
			}
		}
		if age < tellAfter || ctx.Err() != nil {
			continue
		}
		t.Reset(diagnoseLate)
		why := lacks(foundAt(err, r.m.Addr), r.m.Addr, d)
		if why == told {
			continue
		}
		told = why
		if d.Output != "" {
			why += "; it last wrote: " + d.Output
		}
		age = age.Round(time.Second)
		s.edit(r, func(m *balance.Machine) {
			if m.State == balance.Starting && !r.up.Load() && ctx.Err() == nil {
				m.Fault = fmt.Sprintf("not ready after %v: %s", age, why)
			}
		})
		s.config.Trace.notReady(r.m, age, errors.New(why))
	}
}

// describe asks the driver what it knows of a machine.
func (s *Starter) describe(ctx context.Context, r *run) (d Description) {
	driver, ok := s.driver.(Describer)
	if !ok {
		return d
	}
	ctx, cancel := context.WithTimeout(ctx, diagnoseEvery)
	defer cancel()
	var mu sync.Mutex
	var late Description
	err := s.guard(ctx, time.Second, func(ctx context.Context) error {
		got, err := driver.Describe(ctx, r.m)
		mu.Lock()
		defer mu.Unlock()
		late = got
		return err
	})
	if err != nil {
		return d
	}
	mu.Lock()
	defer mu.Unlock()
	return late
}

// foundAt says what a look found, for people.
func foundAt(err error, addr string) string {
	switch {
	case err == nil:
		return "nobody has said that it is ready"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused at " + addr
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer at " + addr
	}
	return err.Error()
}

// misplacedGrace is misplacedGrace for what is known of r's app.
func (s *Starter) misplacedGrace(r *run) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	book := s.book(r)
	known := time.Duration(0)
	if b := book.of(bootKey{r.m.Revision, Cold}); b.Known() {
		known = b.Longest()
	}
	return misplacedGrace(known, r.probe.check.Grace, book.misplaced)
}

func (s *Starter) countMisplaced(r *run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.book(r).misplaced++
}
