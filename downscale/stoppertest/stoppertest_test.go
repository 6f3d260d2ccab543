package stoppertest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ebbkit/ebb/autostart/process"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale/stoppertest"
)

// machineEnv makes this binary a machine: it answers each connection with a byte.
const machineEnv = "STOPPERTEST_MACHINE"

func TestMain(m *testing.M) {
	if os.Getenv(machineEnv) == "" {
		os.Exit(m.Run())
	}
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", os.Getenv("PORT")))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			os.Exit(1)
		}
		_, _ = io.WriteString(c, "1")
		_ = c.Close()
	}
}

// fake is a driver whose machines are words in a map. fault makes it break one clause.
type fake struct {
	fault string

	mu sync.Mutex
	is map[balance.MachineKey]string // running, frozen or ending

	throttle atomic.Bool
}

// later is the error of a driver that may make no more calls for a while.
type later struct{ time.Duration }

func (later) Error() string               { return "429" }
func (l later) RetryAfter() time.Duration { return l.Duration }

func (f *fake) set(m balance.Machine, is string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.is[f.key(m)] = is; is == "" {
		delete(f.is, f.key(m))
	}
}

func (f *fake) get(m balance.Machine) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.is[f.key(m)]
}

// key identifies a machine.
func (f *fake) key(m balance.Machine) balance.MachineKey {
	if f.fault == "known by ID alone" {
		m.App = ""
	}
	return m.Key()
}

func (f *fake) Stop(ctx context.Context, m balance.Machine) error {
	is := f.get(m)
	switch {
	case f.throttle.Load() && f.fault == "passing errors look like others":
		return errors.New("429")
	case f.throttle.Load() && f.fault == "in the past":
		return later{-time.Second}
	case f.throttle.Load() && f.fault != "knows no limits":
		if f.fault == "stops what it refuses" {
			f.set(m, "")
		}
		return fmt.Errorf("fake: %w", later{time.Second})
	case f.fault == "lies":
		return nil
	case f.fault == "late":
		f.set(m, "ending") // until somebody has seen it run
		return nil
	case f.fault == "stop of nothing fails" && is == "":
		return errors.New("it does not run")
	case f.fault == "stop of a stranger ends others" && strings.HasSuffix(string(m.ID), "never-was"):
		f.mu.Lock()
		clear(f.is)
		f.mu.Unlock()
	case f.fault == "cannot stop what is frozen" && is == "frozen":
		return errors.New("it is frozen")
	case f.fault == "deaf to its context" && ctx.Err() != nil:
		select {}
	case f.fault == "says stopped when cut off" && ctx.Err() != nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case f.fault == "stops all":
		f.mu.Lock()
		clear(f.is)
		f.mu.Unlock()
	}
	f.set(m, "")
	return nil
}

func (f *fake) Suspend(_ context.Context, m balance.Machine) error {
	is := f.get(m)
	switch f.fault {
	case "cannot suspend":
		return fmt.Errorf("fake: %w", errors.ErrUnsupported)
	case "unsupported suspend ends it":
		f.set(m, "")
		return fmt.Errorf("fake: %w", errors.ErrUnsupported)
	case "suspends nothing":
		return nil
	}
	if is != "running" {
		return errors.New("it does not run")
	}
	if f.fault != "says suspended" {
		f.set(m, "frozen")
	}
	return nil
}

var serial atomic.Int64

func subject(fault string, timeout time.Duration) stoppertest.Subject {
	f := &fake{fault: fault, is: map[balance.MachineKey]string{}}
	return stoppertest.Subject{
		Driver: f,
		Boot: func() balance.Machine {
			m := balance.Machine{ID: balance.MachineID(fmt.Sprintf("m-%d", serial.Add(1))), App: "app", Region: "nrt", Epoch: 1}
			f.set(m, "running")
			return m
		},
		Runs: func(m balance.Machine) bool {
			is := f.get(m)
			if is == "ending" {
				f.set(m, "")
			}
			return is == "running" || is == "ending"
		},
		Resume: func(m balance.Machine) error {
			if f.get(m) != "frozen" || fault == "does not resume" {
				return errors.New("it is not frozen")
			}
			f.set(m, "running")
			return nil
		},
		Throttle: func(on bool) { f.throttle.Store(on) },
		Timeout:  timeout,
	}
}

func TestGoodDrivers(t *testing.T) {
	for _, kind := range []string{"", "cannot suspend"} {
		t.Run(kind, func(t *testing.T) {
			stoppertest.TestDriver(t, func(t *testing.T) stoppertest.Subject { return subject(kind, 0) })
		})
	}
}

// The driver of child processes, with real ones.
func TestProcesses(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	stoppertest.TestDriver(t, func(t *testing.T) stoppertest.Subject {
		d, err := process.New(process.Config{Argv: []string{self}, Env: []string{machineEnv + "=1"}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		patience := 50 * time.Millisecond // a frozen one lets in and says nothing
		return stoppertest.Subject{
			Driver: d,
			Boot: func() balance.Machine {
				m := balance.Machine{ID: balance.MachineID(fmt.Sprintf("m-%d", serial.Add(1))), App: "app", Region: "nrt", Epoch: 1}
				boot, err := d.Start(t.Context(), m)
				if err != nil {
					t.Fatal(err)
				}
				m.Addr = boot.Addr
				return m
			},
			Runs: func(m balance.Machine) bool {
				c, err := net.DialTimeout("tcp", m.Addr, time.Second)
				if err != nil {
					return false
				}
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(patience))
				if _, err = io.ReadFull(c, make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
					patience = min(2*patience, 10*time.Second) // it may also be this host that is slow
				}
				return err == nil
			},
			Resume: func(m balance.Machine) error { _, err := d.Start(t.Context(), m); return err },
		}
	})
}

// faultEnv makes this binary run the suite on a driver with that fault; it must fail.
const faultEnv = "STOPPERTEST_FAULT"

func TestFault(t *testing.T) {
	fault := os.Getenv(faultEnv)
	if fault == "" {
		t.Skip("run by TestFaultsAreFound")
	}
	var timeout time.Duration // none is needed where the suite does not wait for what never comes
	switch fault {
	case "stop of a stranger ends others", "known by ID alone", "deaf to its context", "unsupported suspend ends it", "cannot stop what is frozen", "stops all", "stops what it refuses":
		timeout = 50 * time.Millisecond
	}
	stoppertest.TestDriver(t, func(t *testing.T) stoppertest.Subject { return subject(fault, timeout) })
}

// The suite fails a driver for each fault, in the clause that the fault breaks (others may fail
// with it), and quotes it.
func TestFaultsAreFound(t *testing.T) {
	if testing.Short() {
		t.Skip("executes itself for each fault")
	}
	for fault, clause := range map[string]string{
		"lies":                            "Stop/gone",
		"late":                            "Stop/gone",
		"stop of nothing fails":           "Stop/idle",
		"stop of a stranger ends others":  "Stop/unknown",
		"known by ID alone":               "Stop/unknown",
		"deaf to its context":             "Stop/ended",
		"says stopped when cut off":       "Stop/ended",
		"knows no limits":                 "Stop/passing",
		"stops what it refuses":           "Stop/passing",
		"passing errors look like others": "Stop/passing",
		"in the past":                     "Stop/passing",
		"says suspended":                  "Suspend/freezes",
		"does not resume":                 "Suspend/resumes",
		"unsupported suspend ends it":     "Suspend/unsupported",
		"suspends nothing":                "Suspend/idle",
		"cannot stop what is frozen":      "Suspend/stop",
		"stops all":                       "Machines/apart",
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFault$/^"+strings.ReplaceAll(clause, "/", "$/^")+"$", "-test.timeout=2m")
			cmd.Env = append(os.Environ(), faultEnv+"="+fault)
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "--- FAIL: TestFault/"+clause) || !strings.Contains(string(out), "the contract says: ") {
				t.Errorf("the fault was not found in %s (%v):\n%s", clause, err, out)
			}
		})
	}
}
