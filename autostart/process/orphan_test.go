//go:build linux || darwin

package process_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ebbkit/ebb/autostart/process"
)

// The processes of these tests report to the test over a connection each, which ends when the
// process does: so the test sees a death without relying on process numbers.
const (
	reportEnv = "PROCESS_TEST_REPORT" // the address to report to
	modeEnv   = "PROCESS_TEST_MODE"   // what the parent does
)

// report connects to the test, sends name, and keeps the connection for the rest of the process's
// life.
func report(name string) {
	conn, err := net.Dial("tcp", os.Getenv(reportEnv))
	if err == nil {
		_, err = fmt.Fprintln(conn, name, os.Getpid())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, name, err)
		os.Exit(1)
	}
	reports = append(reports, conn)
}

// reports keeps the connections from the garbage collector, which would close them.
var reports []net.Conn

// family starts a child of its own and waits for ever.
func family() int {
	report("child")
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), childEnv+"=leaf")
	if err := c.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	select {}
}

// leaf waits for ever. Only SIGKILL ends it.
func leaf() int {
	signal.Ignore(syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT)
	report("grandchild")
	select {}
}

// parent runs a machine with a driver of its own, does what its mode says, and waits for ever.
func parent() int {
	signal.Ignore(syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT)
	mode := os.Getenv(modeEnv)
	c := config("family")
	c.NoGuard = mode == "without guard"
	d, err := process.New(c)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	m := aMachine()
	m.Epoch = 1
	if _, err := d.Start(context.Background(), m); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	report("parent")
	if mode == "suspended" {
		// Only when the test says so, since the machine has to start its own child first.
		if _, err := bufio.NewReader(reports[0]).ReadString('\n'); err != nil {
			return 1
		}
		if err := d.Suspend(context.Background(), m); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		report("suspended")
	}
	select {}
}

// desk receives the reports.
type desk struct {
	t    *testing.T
	l    net.Listener
	here map[string]*visitor
}

// visitor is a process that has reported.
type visitor struct {
	pid  int
	conn net.Conn
	in   *bufio.Reader
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return &desk{t, l, make(map[string]*visitor)}
}

// env returns what a process needs to find the desk.
func (d *desk) env() string { return reportEnv + "=" + d.l.Addr().String() }

// wait waits until all of these are here.
func (d *desk) wait(names ...string) {
	d.t.Helper()
	_ = d.l.(*net.TCPListener).SetDeadline(time.Now().Add(patience))
	for _, name := range names {
		for d.here[name] == nil {
			conn, err := d.l.Accept()
			if err != nil {
				d.t.Fatalf("waiting for the %s: %v", name, err)
			}
			d.t.Cleanup(func() { _ = conn.Close() })
			v := &visitor{conn: conn, in: bufio.NewReader(conn)}
			line, err := v.in.ReadString('\n')
			var who string
			if _, err := fmt.Sscan(line, &who, &v.pid); err != nil {
				d.t.Fatalf("report %q: %v", line, err)
			}
			if err != nil {
				d.t.Fatal(err)
			}
			d.here[who] = v
		}
	}
}

// wantDead waits for the ends of these.
func (d *desk) wantDead(names ...string) {
	d.t.Helper()
	for _, name := range names {
		v := d.here[name]
		_ = v.conn.SetReadDeadline(time.Now().Add(patience))
		if _, err := v.in.ReadByte(); err == nil || os.IsTimeout(err) {
			d.t.Errorf("the %s still lives after %v", name, patience)
			_ = syscall.Kill(v.pid, syscall.SIGKILL)
		}
	}
}

// When a parent is killed, its machines and their children are killed too, whatever signals they
// ignore and even if they are suspended. Signals that a terminal or a service manager sends before
// do not affect the guard.
func TestNoOrphans(t *testing.T) {
	for _, mode := range []string{"running", "suspended", "without guard"} {
		t.Run(mode, func(t *testing.T) {
			if mode == "without guard" && runtime.GOOS != "linux" {
				t.Skip("there is no parent-death signal on this system")
			}
			desk := newDesk(t)
			c := exec.Command(os.Args[0])
			c.Env = append(os.Environ(), childEnv+"=parent", modeEnv+"="+mode, desk.env())
			c.Stderr = os.Stderr
			c.WaitDelay = patience // processes that it leaves behind hold its standard error
			c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			ended := false
			defer func() {
				if !ended {
					_ = c.Process.Kill()
					_ = c.Wait()
				}
			}()
			desk.wait("parent", "child", "grandchild")
			if mode == "suspended" {
				if _, err := fmt.Fprintln(desk.here["parent"].conn, "suspend"); err != nil {
					t.Fatal(err)
				}
				desk.wait("suspended")
			}
			for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
				if err := syscall.Kill(-c.Process.Pid, s); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			if mode == "without guard" {
				desk.wantDead("child")
				_ = syscall.Kill(desk.here["grandchild"].pid, syscall.SIGKILL) // the documented cost of NoGuard
			}
			desk.wantDead("parent", "child", "grandchild")
			ended = true
			_ = c.Wait()
		})
	}
}

// Processes that a machine has started do not outlive it, however it ends.
func TestGrandchildren(t *testing.T) {
	for _, how := range []string{"Stop", "Close", "kill"} {
		t.Run(how, func(t *testing.T) {
			desk := newDesk(t)
			c := config("family")
			c.Env = append(c.Env, desk.env())
			d := newDriver(t, c)
			m := aMachine()
			start(t, d, &m)
			desk.wait("child", "grandchild")
			var err error
			switch how {
			case "Stop":
				err = d.Stop(t.Context(), m)
			case "Close":
				err = d.Close()
			case "kill":
				err = syscall.Kill(desk.here["child"].pid, syscall.SIGKILL)
			}
			if err != nil {
				t.Fatal(err)
			}
			desk.wantDead("child", "grandchild")
			if e := nextExit(t, d); strings.HasPrefix(e.Reason, "stopped: ") != (how != "kill") {
				t.Errorf("%s: exit %+v", how, e)
			}
		})
	}
}
