// Command soak runs a small fleet of real processes under hostile traffic and accounts for every request by its ID:
//
//	go run ./internal/soak -for 10m
//
// Clients read slowly and pause, leave early, upload at their own pace, talk over upgraded connections; machines answer
// with errors, break answers off, give up HTTP/2 connections with GOAWAY, and are killed with SIGKILL. Half of the apps are
// in the process of the edge, half behind the hop; half of the machines speak HTTP/1.1, half HTTP/2.
//
// At the end each request must have been answered, refused or broken off for a reason that the account knows, nothing that
// may run once ran twice, no machine had more at once than its hard limit, nothing is in flight, and goroutines and
// descriptors are what they were before. Else the exit status is 1.
package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"time"
)

func main() {
	if os.Getenv(journalVariable) != "" {
		os.Exit(beMachine())
	}
	var c config
	flag.DurationVar(&c.length, "for", 30*time.Second, "how long clients send requests")
	flag.IntVar(&c.clients, "clients", 24, "how many `clients` send requests, each one after another")
	flag.DurationVar(&c.killEvery, "kill", 2*time.Second, "time between two SIGKILLs of machines; 0 for none")
	flag.Uint64Var(&c.seed, "seed", uint64(time.Now().UnixNano()), "`seed` of all that is drawn by chance")
	flag.Parse()
	if c.clients < 1 || c.length <= 0 || c.killEvery < 0 {
		fmt.Fprintln(os.Stderr, "soak: -clients wants 1 or more, -for more than 0s, -kill 0s or more")
		os.Exit(2)
	}
	if err := soak(c); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

type config struct {
	length    time.Duration
	clients   int
	killEvery time.Duration
	seed      uint64
}

// settled bounds the wait for what is left to end.
const settled = 90 * time.Second

func soak(c config) error {
	fmt.Printf("soak: %v, %d clients, -seed %d\n", c.length, c.clients, c.seed)
	journal, err := os.CreateTemp("", "soak-*.journal")
	if err != nil {
		return err
	}
	defer os.Remove(journal.Name())
	defer journal.Close()
	before := usage()
	f, err := newFleet(journal.Name())
	if err != nil {
		return err
	}
	l := &ledger{killed: map[int]bool{}}
	ends := time.Now().Add(c.length)
	var mu sync.Mutex
	var clients sync.WaitGroup
	for n := range c.clients {
		clients.Go(func() {
			cl := newClient(f.addr, fmt.Sprintf("c%d", n), c.seed+uint64(n), n%3 == 0)
			defer cl.http.CloseIdleConnections()
			for time.Now().Before(ends) {
				r := cl.next(ends)
				mu.Lock()
				l.requests = append(l.requests, r)
				mu.Unlock()
			}
		})
	}
	killer := newKiller(journal.Name(), c.seed)
	kills := 0
	for c.killEvery > 0 && time.Until(ends) > c.killEvery {
		time.Sleep(c.killEvery)
		if pid := killer.kill(); pid != 0 {
			l.killed[pid] = true
			kills++
		}
	}
	clients.Wait()
	http.DefaultClient.CloseIdleConnections()

	left := wait(func() int { return f.inFlight() })
	ctx, cancel := context.WithTimeout(context.Background(), settled)
	defer cancel()
	if err := f.end(ctx); err != nil {
		return fmt.Errorf("ending the fleet: %w", err)
	}
	if err := l.read(journal.Name()); err != nil {
		return err
	}
	said, broken := l.audit(20)
	fmt.Printf("%d requests, %d executions, %d kills\n%s", len(l.requests), len(l.executions), kills, l.summary())
	complain := func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)); broken++ }
	if left != 0 {
		complain("%d requests are still in flight at the gates", left)
	}
	more := wait(func() int { runtime.GC(); return max(0, usage().goroutines-before.goroutines) })
	if more > 0 {
		complain("%d goroutines more than before", more)
		pprof.Lookup("goroutine").WriteTo(os.Stderr, 1)
	}
	if more := wait(func() int { return max(0, usage().descriptors-before.descriptors) }); more > 0 {
		complain("%d descriptors more than before", more)
	}
	for _, s := range said {
		fmt.Println("  WRONG:", s)
	}
	if broken > 0 {
		return fmt.Errorf("%d promises are broken", broken)
	}
	fmt.Println("soak: every request is accounted for; nothing is left")
	return nil
}

// wait polls until what it counts is none, and returns what is left after a generous time.
func wait(count func() int) (left int) {
	for deadline := time.Now().Add(settled); ; time.Sleep(50 * time.Millisecond) {
		if left = count(); left == 0 || time.Now().After(deadline) {
			return left
		}
	}
}

// held is what a process holds.
type held struct{ goroutines, descriptors int }

func usage() (h held) {
	h.goroutines = runtime.NumGoroutine()
	if list, err := os.ReadDir("/proc/self/fd"); err == nil {
		h.descriptors = len(list)
	}
	return h
}

// killer ends machines as the kernel does when memory is short.
type killer struct {
	journal string
	rand    *rand.Rand
}

func newKiller(journal string, seed uint64) *killer {
	return &killer{journal, rand.New(rand.NewPCG(seed, 2))}
}

// kill sends SIGKILL to one machine that runs and returns its pid, or 0. Only a process that has written to this run's
// journal, and still is a child of this process, is touched.
func (k *killer) kill() int {
	var l ledger
	pids, err := l.starts(k.journal)
	if err != nil || len(pids) == 0 {
		return 0
	}
	for range 8 {
		pid := pids[k.rand.IntN(len(pids))]
		if parent(pid) != os.Getpid() {
			continue
		}
		if p, err := os.FindProcess(pid); err == nil && p.Kill() == nil {
			return pid
		}
	}
	return 0
}

// parent returns the parent of a process, or 0.
func parent(pid int) int {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 2 || fields[0] == "Z" {
		return 0
	}
	n, _ := strconv.Atoi(fields[1])
	return n
}

// starts returns the pids of all machines that have begun.
func (l *ledger) starts(journal string) (pids []int, err error) {
	b, err := os.ReadFile(journal)
	for line := range strings.SplitSeq(string(b), "\n") {
		if words := strings.Fields(line); len(words) == 3 && words[1] == "START" {
			pid, _ := strconv.Atoi(words[0])
			pids = append(pids, pid)
		}
	}
	return pids, err
}

// read takes in what the machines wrote.
func (l *ledger) read(journal string) error {
	b, err := os.ReadFile(journal)
	if err != nil {
		return err
	}
	for line := range strings.SplitSeq(strings.TrimSuffix(string(b), "\n"), "\n") {
		words := strings.Fields(line)
		if len(words) < 3 {
			return fmt.Errorf("the journal has a line %q", line)
		}
		pid, _ := strconv.Atoi(words[0])
		switch words[1] {
		case "RUN":
			l.executions = append(l.executions, execution{words[2], pid})
		case "OVER":
			l.over = append(l.over, strings.Join(words[2:], " ")+" (pid "+words[0]+")")
		}
	}
	return nil
}
