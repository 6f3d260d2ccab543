package stoppertest_test

import (
	"testing"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale/stoppertest"
)

// A driver's own test calls the suite with a function that makes a driver, boots machines, and
// says whether one answers.
func ExampleTestDriver() {
	_ = func(t *testing.T) { // func TestMyDriver(t *testing.T)
		stoppertest.TestDriver(t, func(t *testing.T) stoppertest.Subject {
			driver := &fake{is: map[balance.MachineKey]string{}}
			return stoppertest.Subject{
				Driver: driver,
				Boot: func() balance.Machine {
					m := balance.Machine{ID: "m-1", App: "app", Region: "nrt"}
					driver.set(m, "running")
					return m
				},
				Runs: func(m balance.Machine) bool { return driver.get(m) == "running" },
			}
		})
	}
	// Output:
}
