//go:build linux || darwin

package guard

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

const (
	// startTimeout bounds the wait for a new helper's first message. A helper takes some 10 ms to
	// start, longer on a busy host; a binary that is no helper never answers.
	startTimeout = 20 * time.Second
	// writeTimeout bounds one message. The pipe holds thousands of them, so only a helper that has
	// stopped reading fills it.
	writeTimeout = time.Second
	// restartPause is the least time between two automatic restarts of the helper.
	restartPause = time.Second
)

// init turns the process into the helper when it was started as one.
func init() {
	if len(os.Args) > 0 && os.Args[0] == helperName && os.Getenv(helperEnv) != "" {
		// The helper ends with the pipe, not by a signal that a terminal or a service manager sends to
		// everyone.
		signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE)
		nameProcess()
		if _, err := io.WriteString(os.Stdout, hello); err != nil {
			os.Exit(1)
		}
		serve(os.Stdin, func(pgid int) { _ = syscall.Kill(-pgid, syscall.SIGKILL) })
		os.Exit(0)
	}
}

// Guard tells a helper which process groups exist. Its methods may be called from any goroutine. A
// helper that dies is replaced, after restartPause, or at once by the next Add.
type Guard struct {
	mu     sync.Mutex
	groups map[int]bool
	helper *helper // nil when none runs
	closed bool
	ended  sync.WaitGroup
	stop   chan struct{} // closed by Close
}

// helper is one process.
type helper struct {
	cmd     *exec.Cmd
	in      *os.File
	started time.Time
}

// Start starts a helper and returns when it has answered.
func Start() (*Guard, error) {
	g := &Guard{groups: make(map[int]bool), stop: make(chan struct{})}
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.ensure(); err != nil {
		return nil, err
	}
	return g, nil
}

// Add says that group pgid exists. After an error the group is not guarded.
func (g *Guard) Add(pgid int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return errors.New("guard: closed")
	}
	if g.helper != nil && g.helper.write(appendAdd(nil, pgid)) == nil {
		g.groups[pgid] = true
		return nil
	}
	g.drop()
	g.groups[pgid] = true
	if err := g.ensure(); err != nil {
		delete(g.groups, pgid)
		return err
	}
	return nil
}

// Remove says that group pgid is gone. It must be called before the number can be used again, that
// is before the group's leader is waited for.
func (g *Guard) Remove(pgid int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.groups, pgid)
	if g.helper != nil && g.helper.write(appendRemove(nil, pgid)) != nil {
		// it may hold a stale number: better no helper for a moment than one that kills another group
		g.drop()
	}
}

// Close kills the groups that are still there and ends the helper.
func (g *Guard) Close() {
	g.mu.Lock()
	if !g.closed {
		g.closed = true
		close(g.stop)
		for pgid := range g.groups {
			_ = syscall.Kill(-pgid, syscall.SIGKILL)
		}
		g.drop()
	}
	g.mu.Unlock()
	g.ended.Wait()
}

// ensure starts a helper where none runs and tells it all groups. g.mu is held.
func (g *Guard) ensure() error {
	if g.helper != nil || g.closed {
		return nil
	}
	h, err := startHelper()
	if err != nil {
		return fmt.Errorf("guard: helper process: %w", err)
	}
	var all []byte
	for pgid := range g.groups {
		all = appendAdd(all, pgid)
	}
	if err := h.write(all); err != nil {
		h.kill()
		_ = h.cmd.Wait()
		return fmt.Errorf("guard: helper process: %w", err)
	}
	g.helper = h
	g.ended.Go(func() { g.watch(h) })
	return nil
}

// drop gives up the helper; watch starts another one. g.mu is held.
func (g *Guard) drop() {
	if g.helper != nil {
		g.helper.kill()
		g.helper = nil
	}
}

// watch waits for the end of h and replaces it.
func (g *Guard) watch(h *helper) {
	_ = h.cmd.Wait()
	select {
	case <-g.stop:
	case <-time.After(time.Until(h.started.Add(restartPause))):
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	_ = h.in.Close()
	if g.helper == h {
		g.helper = nil
	}
	_ = g.ensure() // the next Add tries again and returns the error
}

// write sends b.
func (h *helper) write(b []byte) error {
	// A pipe that takes no deadline still takes the bytes.
	_ = h.in.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err := h.in.Write(b)
	return err
}

// kill ends the helper before it can kill anything: the signal comes before the end of the pipe.
func (h *helper) kill() {
	_ = h.cmd.Process.Kill()
}

// startHelper executes this binary again as a helper and waits for its first message.
func startHelper() (*helper, error) {
	path, err := self()
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	answer, answerW, err := os.Pipe()
	if err != nil {
		_, _ = r.Close(), w.Close()
		return nil, err
	}
	cmd := &exec.Cmd{
		Path:   path,
		Args:   []string{helperName},
		Env:    []string{helperEnv + "=1"},
		Dir:    "/", // so that it keeps no directory busy
		Stdin:  r,
		Stdout: answerW,
		// Its own session keeps the terminal's signals away. It has no parent-death signal: it must
		// outlive this process.
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	h := &helper{cmd: cmd, in: w, started: time.Now()}
	err = cmd.Start()
	_, _ = r.Close(), answerW.Close()
	defer answer.Close()
	if err != nil {
		_ = w.Close()
		return nil, err
	}
	_ = answer.SetReadDeadline(time.Now().Add(startTimeout))
	word := make([]byte, len(hello))
	if _, err := io.ReadFull(answer, word); err != nil || string(word) != hello {
		h.kill()
		_ = cmd.Wait()
		_ = w.Close()
		return nil, fmt.Errorf("%s executed again does not answer as a helper: %q, %v", path, word, err)
	}
	return h, nil
}
