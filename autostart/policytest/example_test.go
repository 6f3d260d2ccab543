package policytest_test

import (
	"testing"

	"github.com/ebbkit/ebb/autostart/policy"
	"github.com/ebbkit/ebb/autostart/policytest"
)

// A test of your own policy, in a file that ends in _test.go.
func ExampleTestPolicy() {
	_ = func(t *testing.T) {
		policytest.TestPolicy(t, func() policy.Policy { return new(policy.Planner) })
	}
}
