package machine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/ebbkit/ebb/autostart/machine/internal/health"
	"github.com/ebbkit/ebb/balance"
)

// Check says how a machine is checked: whether it is ready, and later whether it still is. The zero
// value connects by TCP.
type Check struct {
	// Path is requested with HTTP/1.1. A status from 200 to 399 is good; redirects are not followed.
	// If it is empty, it is enough that the machine accepts a connection.
	Path string
	// Command, when it is not empty, is executed on the owner's host instead: a program and its
	// arguments; exit status 0 means good. It finds the machine in the environment: EBB_APP,
	// EBB_MACHINE, EBB_ADDR. What it writes is dropped, except the end of it when it fails.
	Command []string
	// Func, when it is not nil, checks instead: nil means good. m.Addr is where the machine listens.
	// It is called from several goroutines and should end with ctx.
	Func func(ctx context.Context, m balance.Machine) error
	// Timeout bounds one look. 0 means 2 s.
	Timeout time.Duration
	// Every is the interval of the checks after ready. 0 means 5 s; negative: none. After a failed
	// check the next ones come sooner: three failures in a row make the machine failing, and take
	// about one interval. One success makes it passing again.
	Every time.Duration
	// Grace is how long after the call of the driver failing checks are expected: until then a start
	// that takes longer than others is not doubted, it is no fault to open other ports before the
	// right one or to do nothing, and the machine counts as recent. 0 means as long as the app's boots
	// are known to take: set it, or App.BootHint, for an app that waits for something else for more
	// than some seconds before it listens.
	Grace time.Duration
}

func (c Check) withDefaults() (Check, error) {
	switch {
	case c.Timeout < 0:
		return c, fmt.Errorf("machine: Check.Timeout %v: want 0 (2 s) or more", c.Timeout)
	case c.Grace < 0:
		return c, fmt.Errorf("machine: Check.Grace %v: want 0 (what is known of boots) or more", c.Grace)
	}
	if len(c.Command) > 0 && (c.Command[0] == "" || c.Path != "") {
		return c, fmt.Errorf(
			"machine: Check.Command %q with Path %q: want a program's name, and one of the two", c.Command,
			c.Path,
		)
	}
	if c.Path != "" {
		if u, err := url.ParseRequestURI(c.Path); err != nil || c.Path[0] != '/' ||
			strings.ContainsAny(c.Path, " #") ||
			u.Host != "" {
			return c, fmt.Errorf(
				"machine: Check.Path %q: want a path such as /healthz, percent-encoded where needed", c.Path,
			)
		}
	}
	if c.Timeout == 0 {
		c.Timeout = 2 * time.Second
	}
	if c.Every == 0 {
		c.Every = 5 * time.Second
	}
	return c, nil
}

// failAfter and passAfter are how many checks in a row make a machine failing, and passing again:
// one failure may be chance, but a machine that answers well can serve.
const failAfter, passAfter = 3, 1

// checks says how a machine that runs is checked.
func (c Check) checks() health.Checks {
	return health.Checks{Every: c.Every, FailAfter: failAfter, PassAfter: passAfter}
}

// unready is the error of a machine that answered, but not as it should.
type unready struct{ error }

func (e unready) Unwrap() error { return e.error }

// prober checks machines.
type prober struct {
	check      Check
	dials      bool          // the check fails if the machine does not listen at its address
	fineTimers chan struct{} // bounds how many machines are checked in the finest steps
	dialer     net.Dialer
	client     *http.Client
}

func newProber(c Check) *prober { return newProberWith(c, make(chan struct{}, fineTimersMax)) }

// newProberWith is newProber for one of several probers that share their fine timers.
func newProberWith(c Check, shared chan struct{}) *prober {
	p := &prober{check: c, dials: c.Func == nil && len(c.Command) == 0, fineTimers: shared}
	p.client = &http.Client{
		// Each look opens a connection of its own: a kept one would say nothing about the machine's port,
		// and would outlive a suspension.
		Transport:     &http.Transport{DisableKeepAlives: true, DialContext: p.dialer.DialContext},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return p
}

// look checks m once: nil means good.
func (p *prober) look(ctx context.Context, m balance.Machine) error {
	ctx, cancel := context.WithTimeout(ctx, p.check.Timeout)
	defer cancel()
	if p.check.Func != nil {
		return contained(func() error { return p.check.Func(ctx, m) })
	}
	if len(p.check.Command) > 0 {
		return p.run(ctx, m)
	}
	if p.check.Path != "" {
		return p.get(ctx, m)
	}
	c, err := p.dialer.DialContext(ctx, "tcp", m.Addr)
	if err != nil {
		return err
	}
	return c.Close()
}

func (p *prober) get(ctx context.Context, m balance.Machine) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.Addr+p.check.Path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "ebb-check")
	resp, err := p.client.Do(req)
	if err != nil {
		if _, refused := errors.AsType[*net.OpError](err); refused {
			return err
		}
		return unready{err}
	}
	resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 399 {
		return unready{fmt.Errorf("GET %s: %s", p.check.Path, resp.Status)}
	}
	return nil
}

// run executes a check. A failure counts as an answer: the next check is not due at once.
func (p *prober) run(ctx context.Context, m balance.Machine) error {
	c := exec.CommandContext(ctx, p.check.Command[0], p.check.Command[1:]...)
	c.Env = append(
		os.Environ(), "EBB_APP="+string(m.App), "EBB_MACHINE="+string(m.ID), "EBB_ADDR="+m.Addr,
	)
	c.WaitDelay = time.Second // for processes that it leaves behind
	out := &tail{}
	c.Stdout, c.Stderr = out, out
	if err := c.Run(); err != nil {
		if said := strings.TrimSpace(string(out.last)); said != "" {
			err = fmt.Errorf("%w: %s", err, said)
		}
		return unready{fmt.Errorf("%s: %w", p.check.Command[0], err)}
	}
	return nil
}

// tail keeps the end of what is written.
type tail struct{ last []byte }

func (t *tail) Write(b []byte) (int, error) {
	t.last = append(t.last, b...)
	if over := len(t.last) - 200; over > 0 {
		t.last = append(t.last[:0], t.last[over:]...)
	}
	return len(b), nil
}

// await looks at a booting machine until it is ready; it should be ready within likely. When ctx
// ends first, it returns the last answer, or nil if there was none, and false. saw receives each
// answer that is not good; it may be nil.
func (p *prober) await(
	ctx context.Context, m balance.Machine, began time.Time, likely health.Window, saw *lastCheck,
) (last error, ready bool) {
	var fine *fineTimer
	defer func() {
		if fine != nil {
			fine.close()
			<-p.fineTimers
		}
	}()
	for refusals := 0; ctx.Err() == nil; {
		err := p.look(ctx, m)
		switch _, answered := errors.AsType[unready](err); {
		case err == nil && ctx.Err() == nil:
			return nil, true
		case ctx.Err() != nil:
			return last, false
		case answered:
			refusals++
		default:
			refusals = 0
		}
		last = err
		if saw != nil {
			saw.set(err)
		}
		step := health.NextLook(time.Since(began), refusals, likely)
		if step < time.Millisecond {
			if fine == nil {
				fine = p.fineTimer()
			}
			if fine != nil && fine.sleep(step) {
				continue
			}
		}
		wait(ctx, step)
	}
	return last, false
}

// wait returns after d, or when ctx ends.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// fineTimersMax is how many machines at a time may be checked in finer steps than timers have: each
// takes 4 to 8 % of a core.
const fineTimersMax = 4

// fineTimer returns a fineTimer, or nil if none is free. When the caller closes it, it also
// receives from p.fineTimers.
func (p *prober) fineTimer() *fineTimer {
	if p.check.Func != nil { // a func may run in a synctest bubble, where only timers make time pass
		return nil
	}
	select {
	case p.fineTimers <- struct{}{}:
	default:
		return nil
	}
	n := newFineTimer()
	if n == nil {
		<-p.fineTimers
	}
	return n
}
