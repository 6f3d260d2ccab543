package process_test

import (
	"fmt"
	"net/http"
	"os"
	"sync/atomic"
	"testing"

	"github.com/ebbkit/ebb/autostart/machinetest"
	"github.com/ebbkit/ebb/autostart/process"
	"github.com/ebbkit/ebb/balance"
)

// childEnv makes the test binary play a child: its value is what kind of child.
const childEnv = "PROCESS_TEST_CHILD"

func TestMain(m *testing.M) {
	if kind := os.Getenv(childEnv); kind != "" {
		os.Exit(children[kind]())
	}
	os.Exit(m.Run())
}

// children are the programs the tests run.
var children = map[string]func() int{
	"serve": serve,
}

// serve answers every request with its environment, until a signal ends it.
func serve() int {
	err := http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, name := range []string{"PORT", "MACHINE", "REGION", "EPOCH", "APP", "EXTRA"} {
			fmt.Fprintf(w, "%s=%s\n", name, os.Getenv(name))
		}
	}))
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// config returns a Config that runs a child of this kind.
func config(kind string) process.Config {
	return process.Config{Argv: []string{os.Args[0], "$MACHINE"}, Env: []string{childEnv + "=" + kind}, Stderr: os.Stderr}
}

var serial atomic.Int64

// machine returns a machine with an ID that no other has.
func machine() balance.Machine {
	return balance.Machine{ID: balance.MachineID(fmt.Sprintf("m-%d", serial.Add(1))), App: "app", Region: "nrt"}
}

// newDriver returns a driver that is closed when the test ends.
func newDriver(t *testing.T, c process.Config) *process.Driver {
	t.Helper()
	d, err := process.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return d
}

func TestConformance(t *testing.T) {
	machinetest.TestDriver(t, func(t *testing.T) machinetest.Subject {
		return machinetest.Subject{Driver: newDriver(t, config("serve")), NewMachine: machine}
	})
}
