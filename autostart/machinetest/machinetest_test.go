package machinetest_test

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ebbkit/ebb/autostart/machinetest"
	"github.com/ebbkit/ebb/balance"
)

var serial atomic.Int64

// subject returns a Subject with a driver that has that fault.
func subject(t *testing.T, fault string, timeout time.Duration) machinetest.Subject {
	f := newDriver(fault)
	t.Cleanup(f.Close)
	return machinetest.Subject{
		Driver: f,
		NewMachine: func() balance.Machine {
			return balance.Machine{ID: balance.MachineID(fmt.Sprintf("m-%d", serial.Add(1))), App: "app", Region: "nrt"}
		},
		Crash: func(m balance.Machine, _ string) error {
			f.crash(m.Key())
			return nil
		},
		NewSilent: func() balance.Machine {
			return balance.Machine{ID: balance.MachineID(fmt.Sprintf("silent-%d", serial.Add(1))), App: "app", Region: "nrt"}
		},
		Throttle: func(on bool) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.throttle = on
		},
		Dial: f.dial, Timeout: timeout,
	}
}

func TestGoodDrivers(t *testing.T) {
	for _, kind := range []string{"", "cannot suspend"} {
		t.Run(kind, func(t *testing.T) {
			machinetest.TestDriver(t, func(t *testing.T) machinetest.Subject { return subject(t, kind, 0) })
		})
	}
}

// faultEnv makes this binary run the suite on a driver with that fault; it must fail.
const faultEnv = "MACHINETEST_FAULT"

func TestFault(t *testing.T) {
	fault := os.Getenv(faultEnv)
	if fault == "" {
		t.Skip("run by TestFaultsAreFound")
	}
	var timeout time.Duration // 0 where the suite does not wait for an event that never comes
	switch fault {
	case "refused start changes epoch", "refused start ends machine", "no address", "ends with context", "unsupported suspend ends it",
		"epoch of the cold start", "no app", "no exits", "one watch only", "crash unseen", "calls with lock held", "deaf to its context", "waits until ready":
		timeout = time.Second
	}
	machinetest.TestDriver(t, func(t *testing.T) machinetest.Subject { return subject(t, fault, timeout) })
}

// The suite fails a driver for each fault, in the clause that the fault breaks (others may fail
// with it), and quotes it.
func TestFaultsAreFound(t *testing.T) {
	if testing.Short() {
		t.Skip("executes itself for each fault")
	}
	faults := map[string]string{
		"starts twice":                    "Start/running",
		"refused start changes epoch":     "Start/running",
		"refused start ends machine":      "Start/running",
		"no address":                      "Start/boots",
		"ends with context":               "Start/outlives",
		"cancelled start fails but runs":  "Start/cancelled",
		"deaf to its context":             "Start/cut",
		"waits until ready":               "Start/exists",
		"knows no limits":                 "Start/passing",
		"starts what it refuses":          "Start/passing",
		"passing errors look like others": "Start/passing",
		"in the past":                     "Start/passing",
		"stop leaves it":                  "Stop/gone",
		"stop of nothing fails":           "Stop/idle",
		"no reason":                       "Stop/epoch",
		"no app":                          "Stop/epoch",
		"code beside signal":              "Stop/epoch",
		"resume called cold":              "Suspend/resume",
		"suspend fails":                   "Suspend/resume",
		"unsupported suspend ends it":     "Suspend/unsupported",
		"suspends nothing":                "Suspend/idle",
		"suspended cannot stop":           "Suspend/stop",
		"suspension is an exit":           "Suspend/epoch",
		"epoch of the cold start":         "Suspend/epoch",
		"watch returns an error":          "Watch/ends",
		"no exits":                        "Watch/once",
		"every exit twice":                "Watch/once",
		"one watch only":                  "Watch/several",
		"crash unseen":                    "Watch/crash",
		"calls with lock held":            "Watch/calls",
		"runs, and says it does not":      "Inspect/runs",
		"always says that it runs":        "Inspect/ended",
		"lists nothing":                   "List/runs",
		"lists without epochs":            "List/runs",
		"lists the suspended as running":  "List/runs",
		"lists what has ended":            "List/ended",
		"one address for all":             "Machines/apart",
		"known by ID alone":               "Machines/apps",
	}
	atOnce := make(chan struct{}, 4) // they mostly wait
	var all sync.WaitGroup
	for fault, clause := range faults {
		all.Go(func() {
			atOnce <- struct{}{}
			defer func() { <-atOnce }()
			c := exec.Command(os.Args[0], "-test.run=^TestFault$/^"+strings.ReplaceAll(clause, "/", "$/^")+"$", "-test.v", "-test.timeout=2m")
			c.Env = append(os.Environ(), faultEnv+"="+fault)
			out, err := c.CombinedOutput()
			quoted := regexp.MustCompile(`the contract says: \w+ .*\n.*but: `)
			if err == nil || !strings.Contains(string(out), "--- FAIL: TestFault/"+clause) || !quoted.Match(out) && !strings.Contains(string(out), "Watch: ") {
				t.Errorf("a driver with the fault %q does not fail %s as it should (%v):\n%s", fault, clause, err, out)
			}
		})
	}
	all.Wait()
}
