//go:build linux || darwin

package guard

import (
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// patience bounds waits that only a failure makes long.
const patience = time.Minute

// sleeper starts a process group and returns its leader and a channel that is closed at its end.
func sleeper(t *testing.T) (*exec.Cmd, <-chan struct{}) {
	t.Helper()
	c := exec.Command("sleep", "1000")
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = c.Wait()
	}()
	t.Cleanup(func() {
		_ = c.Process.Kill()
		<-ended
	})
	return c, ended
}

func newGuard(t *testing.T) *Guard {
	t.Helper()
	g, err := Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return g
}

// current returns the helper that runs, when it is another one than old.
func current(t *testing.T, g *Guard, old *helper) *helper {
	t.Helper()
	for deadline := time.Now().Add(patience); ; <-time.After(time.Millisecond) {
		g.mu.Lock()
		h := g.helper
		g.mu.Unlock()
		if h != nil && h != old {
			return h
		}
		if time.Now().After(deadline) {
			t.Fatalf("no new helper within %v", patience)
		}
	}
}

func wantEnd(t *testing.T, ended <-chan struct{}) {
	t.Helper()
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatalf("the group still lives after %v", patience)
	}
}

// To the helper, the end of the pipe means that this process has died.
func TestHelperKills(t *testing.T) {
	g := newGuard(t)
	gone, goneEnded := sleeper(t)
	left, leftEnded := sleeper(t)
	for _, c := range []*exec.Cmd{gone, left} {
		if err := g.Add(c.Process.Pid); err != nil {
			t.Fatal(err)
		}
	}
	g.Remove(gone.Process.Pid)
	if err := g.helper.in.Close(); err != nil {
		t.Fatal(err)
	}
	wantEnd(t, leftEnded)
	g.Remove(left.Process.Pid)
	select {
	case <-goneEnded:
		t.Error("the helper killed a group it was told is gone")
	default:
	}
}

// A helper that dies is replaced by one that knows all groups, and its death kills nothing.
func TestHelperIsReplaced(t *testing.T) {
	g := newGuard(t)
	c, ended := sleeper(t)
	if err := g.Add(c.Process.Pid); err != nil {
		t.Fatal(err)
	}
	first := current(t, g, nil)
	if err := first.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	second := current(t, g, first)
	select {
	case <-ended:
		t.Fatal("the group died with the helper")
	default:
	}
	if err := second.in.Close(); err != nil {
		t.Fatal(err)
	}
	wantEnd(t, ended)
	g.Remove(c.Process.Pid)
}

// Add does not wait for the pause before a dead helper is replaced, nor for ever for one that has
// stopped reading.
func TestAddReplacesHelper(t *testing.T) {
	g := newGuard(t)
	first := current(t, g, nil)
	if err := first.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	c, ended := sleeper(t)
	// The first message may still have gone into the dead helper's pipe; what matters is that the
	// group is guarded.
	if err := g.Add(c.Process.Pid); err != nil {
		t.Fatal(err)
	}
	second := current(t, g, first)
	if err := second.in.Close(); err != nil {
		t.Fatal(err)
	}
	wantEnd(t, ended)
	g.Remove(c.Process.Pid)
}

func TestCloseKillsWhatIsLeft(t *testing.T) {
	g := newGuard(t)
	c, ended := sleeper(t)
	if err := g.Add(c.Process.Pid); err != nil {
		t.Fatal(err)
	}
	g.Close()
	wantEnd(t, ended)
	if err := g.Add(c.Process.Pid); err == nil {
		t.Error("Add after Close: no error")
	}
}
