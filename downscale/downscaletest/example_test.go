package downscaletest_test

import (
	"testing"
	"time"

	"github.com/ebbkit/ebb/downscale"
	"github.com/ebbkit/ebb/downscale/downscaletest"
)

// A policy's own test calls the suite with a function that makes one, and says how soon idle apps sleep.
func ExampleTestPolicy() {
	_ = func(t *testing.T) { // func TestMyPolicy(t *testing.T)
		downscaletest.TestPolicy(t, downscaletest.Subject{
			New:    func() downscale.Policy { return &downscale.Excess{Pass: time.Minute} },
			Sleeps: 2 * time.Minute,
		})
	}
	// Output:
}
