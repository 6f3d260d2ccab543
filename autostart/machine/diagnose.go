package machine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/boots"
	"github.com/ebbkit/ebb/autostart/machine/internal/health"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/oslimit"
)

// A boot that has not ended is looked into every diagnoseEvery until people have been told of it,
// and later every diagnoseLate. A driver may have to look at all processes of a host, so that
// slow looks are made less often: they take one part in diagnoseShare of the time. What the driver
// says it says within describeWait.
const (
	diagnoseEvery, diagnoseLate = 500 * time.Millisecond, 2500 * time.Millisecond
	diagnoseShare               = 20
	describeWait                = time.Second
)

// lastCheck keeps what the last look at a booting machine found.
type lastCheck struct {
	mu  sync.Mutex
	err error
}

func (f *lastCheck) set(err error) {
	f.mu.Lock()
	f.err = err
	f.mu.Unlock()
}

func (f *lastCheck) get() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// bootError is why a start fails of which enough has been seen.
type bootError string

func (e bootError) Error() string { return string(e) }

// diagnose says in the row of a machine that boots, and in the trace, what it lacks, as long as ctx
// lasts. Where it listens elsewhere and not where it should, it ends the start by fail.
func (s *Starter) diagnose(
	ctx context.Context, fail context.CancelCauseFunc, r *run, began time.Time,
) {
	every := diagnoseEvery
	t := time.NewTimer(every)
	defer t.Stop()
	var place health.Misplaced
	told, doubted := "", false
	hung := s.knownOf(r).Hung // as of its beginning: of several that hang at once one counts
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		err, now := r.lastCheck.get(), time.Now()
		age := now.Sub(began)
		if oslimit.NoProcess(err) {
			t.Reset(every)
			continue // it says nothing of the machine
		}
		d := s.describe(ctx, r)
		known := s.knownOf(r)
		known.Hung = hung
		doubtful := false
		if r.probe.dials && s.condition(r, err) == health.ConditionRefused {
			where, failed := place.Look(now, r.m.Addr, d.Listens, known.MisplacedGrace())
			if failed {
				s.count(r, func(b *boots.Book) { b.Misplaced++ })
				fail(bootError(health.MisplacedText(where, r.m.Addr)))
				return
			}
			idle := health.IdleFor(d)
			doubtful = known.Doubtful(age, place.Lasted(now), idle)
			if known.Hangs(age, idle) {
				s.count(r, func(b *boots.Book) { b.Hung = max(b.Hung, hung+1) })
				fail(bootError(health.HangsText(r.m.Addr, idle, d.Output)))
				return
			}
		}
		if age >= health.TellAfter || doubtful {
			every = diagnoseLate
		}
		t.Reset(max(every, min(diagnoseShare*time.Since(now), diagnoseLate)))
		if age < health.TellAfter && !doubtful && !doubted || ctx.Err() != nil {
			continue
		}
		why := health.Describe(checkText(err, r.m.Addr), r.m.Addr, d, doubtful)
		if why == told {
			continue
		}
		told = why
		if doubtful && !doubted {
			doubted = true
			s.count(r, func(b *boots.Book) { b.Doubted++ })
		}
		if d.Output != "" {
			why += "; it last wrote: " + d.Output
		}
		age = age.Round(100 * time.Millisecond)
		s.edit(r, func(m *balance.Machine) {
			if m.State != balance.StateStarting || r.up.Load() || ctx.Err() != nil {
				return
			}
			m.Fault = fmt.Sprintf("not ready after %v: %s", age, why)
			switch {
			case doubtful:
				m.Health, m.Recent = balance.HealthFailing, false
			case m.Doubtful:
				m.Health = balance.HealthUnknown // it does something again
			}
			m.Doubtful = doubtful
		})
		s.config.Trace.notReady(r.m, age, errors.New(why))
	}
}

// describe asks the driver what it knows of a machine.
func (s *Starter) describe(ctx context.Context, r *run) (d health.Seen) {
	driver, ok := s.driver.(Describer)
	if !ok {
		return d
	}
	ctx, cancel := context.WithTimeout(ctx, describeWait)
	defer cancel()
	var mu sync.Mutex
	var late Description
	err := s.bounded(ctx, time.Second, func(ctx context.Context) error {
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
	return health.Seen(late)
}

// checkText says what a look found, for people.
func checkText(err error, addr string) string {
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

// knownOf returns what is known of the boots of r's app.
func (s *Starter) knownOf(r *run) health.Known {
	s.mu.Lock()
	defer s.mu.Unlock()
	book := s.book(r)
	k := health.Known{
		Grace: r.probe.check.Grace, Misplaced: book.Misplaced, Doubted: book.Doubted,
		Hung: book.Hung,
	}
	if b := book.Of(boots.Key{Revision: r.m.Revision, Kind: boots.Cold}); b.Known() {
		k.Longest, k.Suspect = b.Longest(), b.Suspect()
	}
	return k
}

// count changes what is known of the boots of r's app.
func (s *Starter) count(r *run, change func(*boots.Book)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s.book(r))
}
