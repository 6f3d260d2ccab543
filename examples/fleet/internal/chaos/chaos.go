// Package chaos tests a town: it kills, pauses, cuts off, delays and restarts its processes under
// load, and accounts for each request.
package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ebbkit/ebb/examples/fleet/internal/town"
)

// Config says how a town is tested.
type Config struct {
	Town town.Config
	For  time.Duration
	Seed uint64
	Rate int           // requests in a second
	Pace time.Duration // between two faults, on average
	// Lossy has requests that were lost at a live edge reported, but not counted as wrong: on a
	// slow, shared host an owner may die while all other machines are full.
	Lossy bool
	Out   io.Writer
}

const (
	// readyWait is how long a town may take to start, and healWait how long to recover afterwards.
	readyWait = 2 * time.Minute
	healWait  = 2 * time.Minute
	// outageFrom is the length from which a run includes outages of the engine that last a minute.
	outageFrom = 5 * time.Minute
	outages    = 3
)

// ErrWrong says that the account has violations.
var ErrWrong = errors.New("something is wrong: see the account")

// Run tests a town, and prints the account.
func Run(ctx context.Context, c Config) (err error) {
	c.Town.Record = filepath.Join(c.Town.Dir, "record")
	if err := os.Mkdir(c.Town.Record, 0o700); err != nil {
		return err
	}
	t, err := town.New(c.Town)
	if err != nil {
		return err
	}
	t.Describe(c.Out)
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	var all errgroup.Group
	all.Go(func() error { defer end(); return t.Run(life) })
	a := &Account{Seed: c.Seed, For: c.For}
	results, err := try(ctx, life, c, t, a)
	end()
	if err := errors.Join(err, all.Wait()); err != nil {
		return err
	}
	done, err := a.executed(c.Town.Record)
	if err != nil {
		return err
	}
	a.requests(results, done)
	a.Print(c.Out)
	if len(a.Wrong) > 0 || len(a.Lost) > 0 && !c.Lossy {
		return ErrWrong
	}
	return nil
}

func try(ctx, life context.Context, c Config, t *town.Town, a *Account) ([]result, error) {
	if why := await(life, t, readyWait, false); why != "" {
		return nil, fmt.Errorf("the town is not ready after %v: %s", readyWait, why)
	}
	var edges []*town.Process
	for _, p := range t.Processes() {
		if p.Address != "" {
			edges = append(edges, p)
		}
	}
	l, f := newLoad(edges, c.Seed), newFaults(t, c.Seed, c.Town.Record)
	run, stop := context.WithTimeout(ctx, c.For)
	defer stop()
	over, stopLoad := context.WithCancel(ctx)
	loaded := make(chan struct{})
	go func() { defer close(loaded); l.run(over, c.Rate) }()
	long := 0
	if c.For >= outageFrom {
		long = outages
	}
	f.run(run, c.Pace, c.For, long)
	select { // the load goes on until the last fault is over
	case <-time.After(settle):
	case <-ctx.Done():
	}
	stopLoad()
	<-loaded
	a.Faults = f.counts()
	if why := await(life, t, healWait+c.Town.KeepAlive, true); why != "" {
		a.wrong("%v after the end: %s", healWait+c.Town.KeepAlive, why)
	}
	a.Left = left(t)
	return l.all, life.Err()
}

// await waits until the town is well, and returns what is not when the time is up. With asleep, its
// machines must have been stopped, too.
func await(ctx context.Context, t *town.Town, most time.Duration, asleep bool) (why string) {
	for begin := time.Now(); ; {
		if why = ill(t.State(), asleep); why == "" || time.Since(begin) > most {
			return why
		}
		select {
		case <-time.After(250 * time.Millisecond):
		case <-ctx.Done():
			return "it has ended"
		}
	}
}

// viewMax is how old a node's view may be, in seconds.
const viewMax = 3

// ill returns what is not well.
func ill(s town.State, asleep bool) string {
	nodes := 0
	for _, p := range s.Processes {
		if p.Role != "engine" {
			nodes++
		}
	}
	for _, p := range s.Processes {
		switch {
		case p.State != "up":
			return p.Name + " is " + p.State
		case p.Role == "engine":
			continue
		case p.View == nil || p.ViewAge > viewMax:
			return p.Name + " does not answer"
		case len(p.View.Others) < nodes-1:
			return fmt.Sprintf("%s has heard of %d of %d others", p.Name, len(p.View.Others), nodes-1)
		}
		for _, o := range p.View.Others {
			if o.State != "live" || o.Behind {
				return fmt.Sprintf("to %s, %s is %s (behind: %t)", p.Name, o.Node, o.State, o.Behind)
			}
		}
	}
	owners := map[string]string{}
	for _, m := range s.Machines {
		owners[m.ID] = m.State
		if asleep && (m.State != "stopped" || m.Cordon == "soft") {
			return fmt.Sprintf("%s is %s, cordon %s %s", m.ID, m.State, m.Cordon, m.Fault)
		}
	}
	for _, p := range s.Processes {
		for id, state := range p.Sees {
			if at := owners[id]; at != state {
				return fmt.Sprintf("%s is %s, and %s to %s", id, at, state, p.Name)
			}
		}
	}
	return ""
}

// left returns what the nodes still hold.
func left(t *town.Town) (lines []string) {
	for _, p := range t.State().Processes {
		if p.View != nil {
			lines = append(lines, fmt.Sprintf("%s: start %d, %d goroutines, %d descriptors, %d MB",
				p.Name, p.Starts, p.View.Goroutines, descriptors(p.PID), resident(p.PID)>>20))
		}
	}
	return lines
}

// descriptors, like resident, returns 0 if the system does not tell.
func descriptors(pid int) int {
	files, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return len(files)
}

func resident(pid int) (bytes int) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	var total, pages int
	fmt.Sscan(string(text), &total, &pages)
	return pages * os.Getpagesize()
}
