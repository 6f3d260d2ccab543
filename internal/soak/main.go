// Command soak runs a small fleet of real processes under hostile traffic and accounts for every
// request by its ID:
//
//	go run ./internal/soak -for 10m
//
// Clients read slowly and pause, leave early, upload at their own pace, talk over upgraded
// connections; machines answer with errors, one by one or all of a sudden for some seconds, read
// late, break answers off, give up HTTP/2 connections with GOAWAY, and are killed with SIGKILL.
// The proxy is the one of the README: a [backhaul.Front] with a [backhaul.Proxy]. Some apps are
// in the process of the edge, some behind the hop; some machines speak HTTP/1.1, some HTTP/2;
// some are told when a client leaves, some finish what they have begun.
//
// At the end each request must have been answered, refused or broken off for a reason that the
// account knows, nothing that may run once ran twice, no machine had more at once than its hard
// limit or was told what it should not hear, nothing is in flight, and goroutines and descriptors
// are what they were before. Else the exit status is 1. No verdict depends on how fast the host
// is.
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

	"github.com/ebbkit/ebb/balance"
)

func main() {
	if os.Getenv(journalVariable) != "" {
		os.Exit(beMachine())
	}
	var c config
	flag.DurationVar(&c.length, "for", 30*time.Second, "how long clients send requests")
	flag.IntVar(&c.clients, "clients", 24, "how many `clients` send requests, each one after another")
	flag.DurationVar(
		&c.killEvery, "kill", 2*time.Second, "time between two SIGKILLs of machines; 0 for none",
	)
	flag.Uint64Var(
		&c.seed, "seed", uint64(time.Now().UnixNano()), "`seed` of all that is drawn by chance",
	)
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
	l := new(ledger)
	var mu sync.Mutex
	watching, watched := context.WithCancel(context.Background())
	defer watched()
	go watchStalls(watching, func(from, til time.Time) {
		mu.Lock()
		l.stalls = append(l.stalls, stalled{0, from, til})
		mu.Unlock()
	})
	ends := time.Now().Add(c.length)
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
	kills := map[int]time.Time{}
	for c.killEvery > 0 && time.Until(ends) > c.killEvery {
		time.Sleep(c.killEvery)
		at := time.Now()
		if pid := killer.kill(); pid != 0 {
			kills[pid] = at
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
	watched()
	mu.Lock()
	defer mu.Unlock()
	if err := l.read(journal.Name()); err != nil {
		return err
	}
	for i, v := range l.lives {
		l.lives[i].killed = kills[v.pid]
	}
	said, broken := l.audit(20)
	fmt.Printf("%d requests, %d executions, %d kills\n%s", len(l.requests), len(l.executions),
		len(kills), l.summary())
	fmt.Printf(
		"  %d executions were told that their client had left; machines that may exceed their limit then did %d times\n",
		l.told, l.overTold,
	)
	if n := len(l.stalls); n > 0 {
		fmt.Printf(
			"  %d times a process stood still for more than %v: what was lost by that is no fault\n", n,
			stall,
		)
	}
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

// kill sends SIGKILL to one machine that runs and returns its pid, or 0. Only a process that has
// written to this run's journal, and still is a child of this process, is touched.
func (k *killer) kill() int {
	var l ledger
	if err := l.read(k.journal); err != nil || len(l.lives) == 0 {
		return 0
	}
	last := map[string]int{}
	for _, v := range l.lives {
		last[v.machine] = v.pid
	}
	machines := sortedKeys(last)
	k.rand.Shuffle(len(machines),
		func(i, j int) { machines[i], machines[j] = machines[j], machines[i] })
	for _, m := range machines {
		pid := last[m]
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

func nanos(s string) time.Time {
	n, _ := strconv.ParseInt(s, 10, 64)
	return time.Unix(0, n)
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
		case "START":
			l.lives = append(l.lives, life{machine: words[2], pid: pid, began: nanos(words[3])})
		case "RUN":
			l.executions = append(l.executions, execution{words[2], pid})
		case "STALL":
			l.stalls = append(l.stalls, stalled{pid, nanos(words[2]), nanos(words[3])})
		case "OVER":
			if appOf(balance.AppID(words[2])).mayExceed() {
				l.overTold++
				continue
			}
			l.over = append(l.over, strings.Join(words[2:], " ")+" (pid "+words[0]+")")
		case "TOLD":
			if appOf(balance.AppID(words[2])).finish {
				l.overheard = append(l.overheard, strings.Join(words[2:], " "))
			}
			l.told++
		}
	}
	return nil
}
