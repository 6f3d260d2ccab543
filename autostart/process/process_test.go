//go:build linux || darwin

package process_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/autostart/machinetest"
	"github.com/ebbkit/ebb/autostart/process"
	"github.com/ebbkit/ebb/balance"
)

// patience bounds waits that only a failure makes long.
const patience = time.Minute

// config returns a Config whose machines are children of this kind; see children_test.go.
func config(kind string) process.Config {
	return process.Config{
		Argv:        []string{os.Args[0], "$MACHINE"},
		Env:         []string{childEnv + "=" + kind},
		Output:      os.Stderr,
		StopTimeout: patience,
	}
}

var serial atomic.Int64

// aMachine returns a machine with an ID that no other has.
func aMachine() balance.Machine {
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

// start starts m at its next epoch.
func start(t *testing.T, d *process.Driver, m *balance.Machine) machine.Booting {
	t.Helper()
	m.Epoch++
	b, err := d.Start(t.Context(), *m)
	if err != nil {
		t.Fatal(err)
	}
	m.Addr = b.Addr
	return b
}

// get asks m until it answers.
func get(t *testing.T, m balance.Machine, path string) string {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		if body, err := ask(t.Context(), m, path); err == nil {
			return body
		} else if time.Now().After(deadline) {
			t.Fatalf("no answer within %v: %v", patience, err)
		}
		<-time.After(time.Millisecond)
	}
}

func ask(ctx context.Context, m balance.Machine, path string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, "GET", "http://"+m.Addr+path, nil)
	if err != nil {
		return "", err
	}
	answer, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return string(body), err
}

// nextExit waits for an exit that no Watch has seen.
func nextExit(t *testing.T, d *process.Driver) machine.Exit {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var got *machine.Exit
	if err := d.Watch(ctx, func(e machine.Exit) {
		got = &e
		cancel()
	}); err != nil {
		t.Fatalf("Watch: %v", err)
	}
	if got == nil {
		t.Fatalf("no exit was reported within %v", patience)
	}
	return *got
}

func TestConformance(t *testing.T) {
	machinetest.TestDriver(t, func(t *testing.T) machinetest.Subject {
		return machinetest.Subject{
			Driver:     newDriver(t, config("serve")),
			NewMachine: aMachine,
			NewSilent: func() balance.Machine {
				m := aMachine()
				m.ID = "silent-" + m.ID
				return m
			},
			Crash: func(_ balance.Machine, addr string) error {
				_, err := ask(t.Context(), balance.Machine{Addr: addr}, "/exit")
				if err == nil {
					return errors.New("/exit was answered")
				}
				return nil
			},
		}
	})
}

func TestEnvironmentAndWords(t *testing.T) {
	c := config("serve")
	c.Argv = append(c.Argv, "--listen=127.0.0.1:$PORT", "${REGION}-$APP", "$EXTRA")
	c.Env = append(c.Env, "EXTRA=$MACHINE at $EPOCH in $HOME")
	c.Dir = t.TempDir()
	d := newDriver(t, c)
	m := aMachine()
	start(t, d, &m)
	_, port, _ := strings.Cut(m.Addr, ":")
	dir, err := filepath.EvalSymlinks(c.Dir)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("PORT=%s\nMACHINE=%s\nREGION=nrt\nEPOCH=1\nAPP=app\nEXTRA=%s at 1 in $HOME\nargs [%[2]s --listen=127.0.0.1:%[1]s nrt-app $EXTRA]\ndir %[4]s\n",
		port, m.ID, m.ID, dir)
	if got := get(t, m, "/"); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestExits(t *testing.T) {
	for _, test := range []struct {
		kind   string
		code   int
		signal string
		reason string
	}{
		{"exit7", 7, "", "exit status 7"},
		{"exit0", 0, "", "exit status 0"},
		{"kill9", -1, "killed", "killed by signal: killed"},
		{"hangup", -1, "hangup", "killed by signal: hangup"},
	} {
		d := newDriver(t, config(test.kind))
		m := aMachine()
		start(t, d, &m)
		e := nextExit(t, d) // however early the machine ended
		if e.ID != m.ID || e.Epoch != 1 || e.Code != test.code || e.Signal != test.signal || !strings.HasPrefix(e.Reason, test.reason) {
			t.Errorf("%s: exit %+v, want code %d, signal %q, reason %q…", test.kind, e, test.code, test.signal, test.reason)
		}
	}
}

func TestStopIsPolite(t *testing.T) {
	d := newDriver(t, config("polite"))
	m := aMachine()
	start(t, d, &m)
	get(t, m, "/")
	if err := d.Stop(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if e := nextExit(t, d); e.Code != 42 || e.Reason != "stopped: exit status 42" {
		t.Errorf("exit %+v, want the status 42 of its own", e)
	}
}

// A machine that ignores the stop signal is killed when StopTimeout is over, when the caller's
// context ends, or at once when StopTimeout is negative.
func TestStopKills(t *testing.T) {
	for _, test := range []struct {
		name    string
		timeout time.Duration
		cancel  bool // the context, when the machine has been asked
		reason  string
	}{
		{"time is up", 20 * time.Millisecond, false, "after it was asked to stop"},
		{"context ends", patience, true, "after it was asked to stop"},
		{"no time", -1, false, "stopped: killed by signal: killed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := config("stubborn")
			c.StopTimeout = test.timeout
			d := newDriver(t, c)
			m := aMachine()
			start(t, d, &m)
			get(t, m, "/")
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if test.cancel {
				go func() {
					for {
						body, err := ask(ctx, m, "/terms")
						if err != nil {
							return
						}
						if body != "0\n" {
							cancel()
						}
					}
				}()
			}
			begin := time.Now()
			if err := d.Stop(ctx, m); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begin); took > patience/2 {
				t.Errorf("Stop took %v", took)
			}
			if e := nextExit(t, d); e.Signal != "killed" || !strings.Contains(e.Reason, test.reason) || strings.Contains(e.Reason, "memory") {
				t.Errorf("exit %+v, want a kill whose reason says %q", e, test.reason)
			}
		})
	}
}

// A suspended machine does nothing, keeps its address and memory, and goes on where it was.
func TestSuspend(t *testing.T) {
	d := newDriver(t, config("serve"))
	m := aMachine()
	start(t, d, &m)
	pid := strings.TrimSpace(get(t, m, "/pid"))
	if got := get(t, m, "/count"); got != "1\n" {
		t.Errorf("counted %q, want 1", got)
	}
	if err := d.Suspend(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if err := d.Suspend(t.Context(), m); err != nil {
		t.Errorf("Suspend of a suspended machine: %v", err)
	}
	if runtime.GOOS == "linux" {
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		if _, state, _ := strings.Cut(string(stat), ") "); err != nil || !strings.HasPrefix(state, "T") {
			t.Errorf("after Suspend the process is in state %.1q (%v), want T", state, err)
		}
	}
	// The kernel still accepts its connections; an answer has to wait for the resume.
	conn, err := net.Dial("tcp", m.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET /count HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	addr := m.Addr
	if b := start(t, d, &m); !b.Resumed || b.Addr != addr {
		t.Errorf("resume: %+v, want a resume at %s", b, addr)
	}
	if got, err := io.ReadAll(conn); err != nil || !strings.HasSuffix(string(got), "\r\n\r\n2\n") {
		t.Errorf("the request of before the resume was answered %q, %v, want the count 2", got, err)
	}
}

// The machine ends while it is suspended: the exit carries the epoch it had, and the next start is
// a cold one.
func TestKilledWhileSuspended(t *testing.T) {
	d := newDriver(t, config("serve"))
	m := aMachine()
	start(t, d, &m)
	pid := get(t, m, "/pid")
	if err := d.Suspend(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	var n int
	if _, err := fmt.Sscan(pid, &n); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(n, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e := nextExit(t, d); e.Epoch != 1 || e.Signal != "killed" {
		t.Errorf("exit %+v, want a kill at epoch 1", e)
	}
	if b := start(t, d, &m); b.Resumed {
		t.Errorf("next start: %+v, want a cold one", b)
	}
}
