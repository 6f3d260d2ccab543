package policy

import (
	"fmt"
	"time"

	"github.com/ebbkit/ebb/balance"

	"github.com/ebbkit/ebb/autostart/internal/boots"
)

const (
	// quitFor is how soon after ready an end without a command counts as a crash, even with exit
	// status 0: an app that does not mean to serve would otherwise be started again and again.
	quitFor = 2 * time.Second
	// A machine that has run for ten times its boot, within these bounds, has not ended early: it
	// starts again at once, and its earlier failures are forgotten. Restarts then cost a tenth of
	// its time at most, and a machine that is killed from outside, by a lack of memory or by the
	// host, is not held back like one that crashes as it starts.
	steadyBoots          = 10
	steadyMin, steadyMax = time.Second, time.Minute
)

// breaker stops an app from starting machine after machine that all fail.
//
//	closed --boots fail in a row, or nothing is left--> open
//	open --interval over: one probe--> open, longer, or closed
type breaker struct {
	failures int // boots that failed in a row
	open     bool
	opened   int           // openings in a row: the exponent of the interval
	next     time.Time     // when open: the next probe may start from here
	fault    string        // of the last failure
	second   time.Time     // when the second failure in a row was counted
	took     time.Duration // the longest of the boots that failed in a row
}

func (b *breaker) failed(now time.Time, took time.Duration, fault string, bits uint64) {
	b.failures++
	b.fault, b.took = fault, max(b.took, took)
	if b.failures == boots.BreakerAfter-1 {
		b.second = now
	}
	if b.open || b.failures >= boots.BreakerAfter {
		b.trip(now, bits)
	}
}

// trip opens it, or keeps it open for longer.
func (b *breaker) trip(now time.Time, bits uint64) {
	b.open = true
	b.opened++
	b.next = now.Add(boots.Backoff(b.opened, bits))
}

// probed notes that a probe starts: the next may not before another interval is over, whatever
// becomes of this one.
func (b *breaker) probed(now time.Time, bits uint64) {
	b.next = now.Add(boots.Backoff(b.opened, bits))
}

// repeats reports whether a boot that began then, and is that old, seems only to repeat those that
// have failed in a row: it has not yet lasted clearly longer than they did.
func (b *breaker) repeats(began time.Time, age time.Duration) bool {
	return b.failures >= boots.BreakerAfter-1 && !began.Before(b.second) && age <= 2*b.took+time.Second
}

func (b *breaker) succeeded() { *b = breaker{} }

// steady returns how long a machine must have run for its end not to delay the next start: its
// earlier failures are then forgotten, and what ended it may have come from outside.
func (p *Planner) steady(m *balance.Machine, kind boots.Kind) time.Duration {
	b := p.boots.Of(boots.Key{Revision: m.Revision, Kind: kind})
	if !b.Known() {
		return steadyMax
	}
	return min(max(steadyMin, steadyBoots*min(b.Expected(), steadyMax)), steadyMax)
}

// failure is a way to fail.
type failure uint8

const (
	noStart failure = iota // its owner could not be told to start it
	noBoot                 // it started and never was ready
	crash                  // it was ready, and ended
)

// failed counts a failure of a machine.
func (p *Planner) failed(now time.Time, m *balance.Machine, s *memory, fault string, what failure) {
	if fault == "" {
		fault = "it failed and did not say why"
	}
	s.fault, s.asked = fmt.Sprintf("machine %s: %s", m.ID, fault), asked{}
	s.fails++
	n, bits := s.fails, p.bits(m)
	switch what {
	case crash:
		n-- // the first crash after a good run does not delay the next start
	case noBoot:
		p.breaker.failed(now, now.Sub(s.bootAt), s.fault, bits)
	}
	s.until = now
	if n > 0 {
		s.until = now.Add(boots.Backoff(n, bits))
	}
}

// bits returns random bits for one machine from those of the present call.
func (p *Planner) bits(m *balance.Machine) uint64 {
	return (p.rand ^ m.Key().Rank()) * 0x9e3779b97f4a7c15
}
