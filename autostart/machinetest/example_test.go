package machinetest_test

import (
	"testing"

	"github.com/ebbkit/ebb/autostart/machinetest"
	"github.com/ebbkit/ebb/balance"
)

// A driver's own test calls the suite with a function that makes a driver, and says what a machine
// is.
func ExampleTestDriver() {
	_ = func(t *testing.T) { // func TestMyDriver(t *testing.T)
		machinetest.TestDriver(t, func(t *testing.T) machinetest.Subject {
			driver := newFake("")
			t.Cleanup(driver.Close)
			return machinetest.Subject{
				Driver:     driver,
				NewMachine: func() balance.Machine { return balance.Machine{ID: "m-1", App: "app", Region: "nrt"} },
			}
		})
	}
	// Output:
}
