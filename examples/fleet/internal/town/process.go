package town

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"time"
)

// EnvChild is set for children. They end when their standard input does, since the process that
// looks after them has then ended.
const EnvChild = "FLEET_CHILD"

// Process is a process of the town. It is restarted whenever it has ended.
type Process struct {
	Name, Region, Role string
	Address            string // where it accepts clients; empty: it does not
	Status             string // where its status page is; empty: it has none
	args               []string

	mu       sync.Mutex
	cmd      *exec.Cmd
	stdin    io.Closer
	state    string // "up", "paused", "down"
	why      string // why it is down
	since    time.Time
	starts   int
	told     time.Time     // when it was told to end; zero: it was not
	away     time.Duration // time before the next start; 0 means as usual
	kick     chan struct{} // start it at once
	recorded []Interval
}

// Interval is a time in which a process did not run.
type Interval struct {
	From, To time.Time
	Ended    bool // it ended in order: it accepted no more clients, and served what it had
	Paused   bool // it continues with the requests that it had
}

// spawner starts processes, always on the same thread: on Linux they end when that thread does.
type spawner struct{ do chan func() }

func newSpawner() *spawner {
	s := &spawner{do: make(chan func())}
	go func() {
		runtime.LockOSThread()
		for f := range s.do {
			f()
		}
	}()
	return s
}

func (s *spawner) start(c *exec.Cmd) (err error) {
	done := make(chan struct{})
	s.do <- func() { defer close(done); err = c.Start() }
	<-done
	return err
}

// run keeps the process running until ctx ends; then it ends the process.
func (p *Process) run(ctx context.Context, t *Town) error {
	for ctx.Err() == nil {
		ended, err := p.start(t)
		if err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
		select {
		case err := <-ended:
			p.down(t, err)
		case <-ctx.Done():
			return p.end(ended)
		}
		select {
		case <-time.After(p.pauseBefore(t.c.Restart)):
		case <-p.kick:
		case <-ctx.Done():
		}
	}
	return nil
}

// pauseBefore returns how long to wait before the next start.
func (p *Process) pauseBefore(usual time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.away
	p.away = 0
	return cmp.Or(d, usual)
}

// Away kills a process, or ends it in order, and keeps it down for d.
func (t *Town) Away(name string, d time.Duration, inOrder bool) error {
	p := t.process(name)
	if p == nil {
		return fmt.Errorf("there is no process %q", name)
	}
	p.mu.Lock()
	p.away = d
	p.mu.Unlock()
	if inOrder {
		return t.Do(name, "end")
	}
	return t.Do(name, "kill")
}

func (p *Process) start(t *Town) (ended <-chan error, err error) {
	cmd := exec.Command(t.c.Self, p.args...)
	cmd.Env = append(os.Environ(), EnvChild+"=1")
	cmd.SysProcAttr = attributes()
	out := &prefixed{t: t, name: p.Name}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = time.Second // machines may hold its output open
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := t.spawner.start(cmd); err != nil {
		return nil, err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	p.mu.Lock()
	p.cmd, p.stdin, p.state, p.why = cmd, stdin, "up", ""
	if p.starts > 0 {
		p.disturbed()
	}
	p.since, p.told = time.Now(), time.Time{}
	p.starts++
	n := p.starts
	p.mu.Unlock()
	t.event(p.Name, "started, process %d (start %d)", cmd.Process.Pid, n)
	return done, nil
}

func (p *Process) down(t *Town, err error) {
	why := "exit status 0"
	if err != nil {
		why = err.Error()
	}
	p.mu.Lock()
	if p.state == "paused" {
		p.disturbed()
	}
	p.cmd, p.state, p.why, p.since = nil, "down", why, time.Now()
	switch {
	case err != nil:
		p.told = time.Time{}
	case !p.told.IsZero(): // it accepted no more clients from then on
		p.recorded = append(p.recorded, Interval{From: p.told, To: p.since, Ended: true})
	}
	p.mu.Unlock()
	t.event(p.Name, "has ended: %s", why)
}

// endWait is how long a process may take to end in order.
const endWait = 30 * time.Second

func (p *Process) end(ended <-chan error) error {
	p.signal(resume) //nolint:errcheck // it runs, or has ended
	p.signal(terminate)
	select {
	case <-ended:
	case <-time.After(endWait):
		p.signal((*os.Process).Kill) //nolint:errcheck // then it has ended
		<-ended
		return fmt.Errorf("%s did not end within %v and was killed", p.Name, endWait)
	}
	return nil
}

func (p *Process) signal(how func(*os.Process) error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return errors.New("it does not run")
	}
	return how(p.cmd.Process)
}

// disturbed notes that the process has not run since it last changed; p.mu is held.
func (p *Process) disturbed() {
	p.recorded = append(p.recorded, Interval{
		From: p.since, To: time.Now(), Ended: p.state == "down" && !p.told.IsZero(), Paused: p.state == "paused",
	})
}

// Disturbed returns the times in which the process did not run.
func (p *Process) Disturbed() []Interval {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := append([]Interval(nil), p.recorded...)
	if !p.told.IsZero() {
		all = append(all, Interval{From: p.told, To: time.Now(), Ended: true})
	}
	if p.state != "up" {
		all = append(all, Interval{
			From: p.since, To: time.Now(), Ended: p.state == "down" && !p.told.IsZero(), Paused: p.state == "paused",
		})
	}
	return all
}

// Up reports whether it runs, and since when.
func (p *Process) Up() (since time.Time, up bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.since, p.state == "up"
}

// PID returns the process ID, or 0 if it does not run.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// Do acts on a process: "kill", "end" (in order; after both it is restarted after a while),
// "pause", "resume", or "start" (at once).
func (t *Town) Do(name, what string) error {
	p := t.process(name)
	if p == nil {
		return fmt.Errorf("there is no process %q", name)
	}
	t.event(name, "%s, as was asked for", what)
	p.mu.Lock()
	was := p.state
	p.mu.Unlock()
	switch what {
	case "kill":
		return p.signal((*os.Process).Kill)
	case "end":
		if was == "paused" {
			return errors.New("it is paused: resume it first")
		}
		p.mu.Lock()
		if p.told.IsZero() {
			p.told = time.Now()
		}
		p.mu.Unlock()
		return p.signal(terminate)
	case "pause":
		if was != "up" {
			return fmt.Errorf("it is %s", was)
		}
		err := p.signal(pause)
		p.turn(err, "paused")
		return err
	case "resume":
		if was != "paused" {
			return fmt.Errorf("it is %s", was)
		}
		err := p.signal(resume)
		p.turn(err, "up")
		return err
	case "start":
		if was != "down" {
			return fmt.Errorf("it is %s", was)
		}
		select {
		case p.kick <- struct{}{}:
		default:
		}
		return nil
	}
	return fmt.Errorf("%q: want kill, end, pause, resume or start", what)
}

func (p *Process) turn(err error, state string) {
	if err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if state == "up" {
		p.disturbed()
	}
	p.state, p.since = state, time.Now()
}

// prefixed prefixes each line with the name of the process that wrote it.
type prefixed struct {
	t    *Town
	name string
	rest []byte
}

func (w *prefixed) Write(b []byte) (int, error) {
	w.rest = append(w.rest, b...)
	for {
		i := bytes.IndexByte(w.rest, '\n')
		if i < 0 && len(w.rest) < 16<<10 {
			return len(b), nil
		}
		if i < 0 {
			i = len(w.rest) - 1
		}
		w.t.mu.Lock()
		fmt.Fprintf(w.t.c.Out, "%-14s %s\n", w.name, w.rest[:i])
		w.t.mu.Unlock()
		w.rest = w.rest[i+1:]
	}
}
