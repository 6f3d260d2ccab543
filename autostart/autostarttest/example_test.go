package autostarttest_test

import (
	"testing"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/autostart/autostarttest"
)

// A test of one's own policy, in a file that ends in _test.go.
func ExampleTestPolicy() {
	_ = func(t *testing.T) {
		autostarttest.TestPolicy(t, func() autostart.Policy { return autostart.NewPlanner(false) })
	}
}
