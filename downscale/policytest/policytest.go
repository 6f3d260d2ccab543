// Package policytest checks that a [policy.Policy] keeps the contract which the rest of the
// library relies on.
//
//	func TestMyPolicy(t *testing.T) {
//		policytest.TestPolicy(t, policytest.Subject{New: func() policy.Policy { return &myPolicy{} }})
//	}
//
// Each clause of the contract is a subtest of its own, run over stories drawn at random from fixed
// seeds, in virtual time. Policies are asked through [policy.Bounded], as a downscaler does: a
// policy passes without repeating what Bounded enforces.
package policytest

import (
	"cmp"
	"fmt"
	"testing"
	"time"

	"github.com/ebbkit/ebb/downscale/policy"
)

// Subject is a policy under test and what the suite has to know about it.
type Subject struct {
	// New returns a policy of one app that has not decided anything yet.
	New func() policy.Policy
	// Sleeps is how long an app may take to go to its minimum once nothing is used any more, for
	// each of its machines. 0 means one hour; negative means that it never has to.
	Sleeps time.Duration
	// Stories is how many stories are run per clause; 0 means 50.
	Stories int
}

// TestPolicy runs all clauses.
func TestPolicy(t *testing.T, s Subject) {
	if s.New == nil {
		t.Fatal("policytest: Subject.New must be set")
	}
	s.Sleeps = cmp.Or(s.Sleeps, time.Hour)
	s.Stories = cmp.Or(s.Stories, 50)
	for _, c := range clauses {
		t.Run(c.name, func(t *testing.T) {
			for seed := range s.Stories {
				c.check(&story{T: t, subject: s, clause: c.text, seed: uint64(seed)})
			}
		})
	}
}

// broken ends the clause with its sentence and what happened instead.
func (s *story) broken(format string, args ...any) {
	s.Helper()
	s.Fatalf("the contract says: %s\nbut in story %d, at %v: %s", s.clause, s.seed, s.now.Sub(epoch), fmt.Sprintf(format, args...))
}
