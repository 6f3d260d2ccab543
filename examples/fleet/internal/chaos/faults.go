package chaos

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ebbkit/ebb/examples/fleet/internal/town"
)

// faults disturbs a town with one fault after another, as its seed says. One worker is always left
// undisturbed: else nobody could serve.
type faults struct {
	t       *town.Town
	rand    *rand.Rand
	record  string
	edges   []string
	workers []string
	own     bool // the engine is the town's

	wg    sync.WaitGroup
	mu    sync.Mutex
	until map[string]time.Time // what is or was disturbed, and until when
	count map[string]int
}

// settle is how long a node still counts as disturbed after it is well again: until others hear it.
const settle = 4 * time.Second

func newFaults(t *town.Town, seed uint64, record string) *faults {
	f := &faults{
		t: t, rand: rand.New(rand.NewPCG(seed, 2)), record: record, until: map[string]time.Time{},
		count: map[string]int{},
	}
	for _, p := range t.Processes() {
		switch p.Role {
		case "edge":
			f.edges = append(f.edges, p.Name)
		case "worker":
			f.workers = append(f.workers, p.Name)
		case "engine":
			f.own = true
		}
	}
	return f
}

// run causes a fault every now and then until ctx ends, then waits until all is well again. outages
// is how many times the engine is down for a minute. Before such an outage run causes no other
// fault and waits until all is well.
func (f *faults) run(ctx context.Context, every time.Duration, last time.Duration, outages int) {
	begin := time.Now()
	for n := 0; ; {
		select {
		case <-ctx.Done():
			f.wg.Wait()
			return
		case <-time.After(every/2 + time.Duration(f.rand.Int64N(int64(every)))):
		}
		if n < outages && f.own && time.Since(begin) > last*time.Duration(n+1)/time.Duration(outages+1) {
			if f.calm() && f.claim("engine", time.Minute) {
				n++
				f.away("engine", time.Minute, false, "engine away for 1m")
			}
			continue
		}
		f.one(ctx)
	}
}

// between draws a duration.
func (f *faults) between(least, most time.Duration) time.Duration {
	return least + time.Duration(f.rand.Int64N(int64(most-least)))
}

// faultKinds is the number of kinds of faults. begins lists the kinds after which a node comes back
// as a new one. These wait while the engine is down for long, since a node that starts then hears
// of no other.
const faultKinds = 13

var begins = []int{0, 1, 5, 6}

// outage reports whether the engine is down, or was until just now.
func (f *faults) outage() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Now().Before(f.until["engine"])
}

func (f *faults) one(ctx context.Context) {
	edge := f.edges[f.rand.IntN(len(f.edges))]
	worker := f.workers[f.rand.IntN(len(f.workers))]
	node := edge
	if f.rand.IntN(2) == 0 {
		node = worker
	}
	short, d := f.between(200*time.Millisecond, 3*time.Second), f.between(500*time.Millisecond, 4*time.Second)
	what := f.rand.IntN(faultKinds)
	if f.outage() && slices.Contains(begins, what) {
		return
	}
	switch what {
	case 0:
		f.disturb(edge, d, func() { f.away(edge, d, false, "edge killed") })
	case 1:
		f.disturb(worker, d, func() { f.away(worker, d, false, "worker killed") })
	case 2:
		f.disturb(edge, short, func() { f.pause(ctx, edge, short, "edge paused") })
	case 3:
		f.disturb(worker, short, func() { f.pause(ctx, worker, short, "worker paused") })
	case 4: // longer than it takes to count as gone
		d = 8 * time.Second
		f.disturb(worker, d, func() { f.pause(ctx, worker, d, "worker paused for 8s") })
	case 5:
		f.disturb(edge, d, func() { f.away(edge, d, true, "edge ended in order") })
	case 6:
		f.disturb(worker, d, func() { f.away(worker, d, true, "worker ended in order") })
	case 7:
		f.disturb(worker, d, func() { f.cut(ctx, edge, worker, d, "edge and worker cut off") })
	case 8: // a node that starts meanwhile is not heard by others, nor does it hear them
		f.disturb(node, d, func() { f.cut(ctx, node, "engine", d, "node cut off from engine") })
	case 9:
		f.late(ctx, f.between(20*time.Millisecond, 150*time.Millisecond), d)
	case 10:
		f.machine(ctx, worker, "machine killed", 0)
	case 11:
		f.machine(ctx, worker, "machine paused", short)
	case 12:
		switch {
		case !f.own || !f.claim("engine", time.Second):
		case f.rand.IntN(2) == 0:
			f.away("engine", 500*time.Millisecond, false, "engine away for 0.5s")
		default:
			f.pause(ctx, "engine", 500*time.Millisecond, "engine paused for 0.5s")
		}
	}
}

// claim marks something as disturbed, unless it is disturbed already.
func (f *faults) claim(name string, d time.Duration) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Now().Before(f.until[name]) {
		return false
	}
	f.until[name] = time.Now().Add(d + settle)
	return true
}

// disturb disturbs a node if that leaves another worker undisturbed.
func (f *faults) disturb(name string, d time.Duration, do func()) {
	if slices.Contains(f.workers, name) {
		f.mu.Lock()
		well := 0
		for _, w := range f.workers {
			if w != name && time.Now().After(f.until[w]) {
				well++
			}
		}
		f.mu.Unlock()
		if well == 0 {
			return
		}
	}
	if f.claim(name, d) {
		do()
	}
}

// calm reports whether nothing is disturbed.
func (f *faults) calm() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, until := range f.until {
		if time.Now().Before(until) {
			return false
		}
	}
	return true
}

// done counts a fault.
func (f *faults) done(what string, err error) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.count["not done: "+what]++
		return false
	}
	f.count[what]++
	return true
}

func (f *faults) away(name string, d time.Duration, inOrder bool, what string) {
	f.done(what, f.t.Away(name, d, inOrder))
}

// then runs do, which ends a fault, after d or when ctx ends.
func (f *faults) then(ctx context.Context, d time.Duration, do func()) {
	f.wg.Go(func() {
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
		do()
	})
}

func (f *faults) pause(ctx context.Context, name string, d time.Duration, what string) {
	if f.done(what, f.t.Do(name, "pause")) {
		f.then(ctx, d, func() { f.t.Do(name, "resume") }) //nolint:errcheck // it may have ended meanwhile
	}
}

func (f *faults) cut(ctx context.Context, a, b string, d time.Duration, what string) {
	f.t.Net().Cut(a, b)
	f.done(what, nil)
	f.then(ctx, d, func() { f.t.Net().Join(a, b) })
}

func (f *faults) late(ctx context.Context, by, d time.Duration) {
	f.t.Net().Late(by)
	f.done("network slower", nil)
	f.then(ctx, d, func() { f.t.Net().Late(0) })
}

// machine kills or pauses a machine of a worker.
func (f *faults) machine(ctx context.Context, worker, what string, d time.Duration) {
	pids := f.machines(worker)
	if len(pids) == 0 {
		return
	}
	pid := pids[f.rand.IntN(len(pids))]
	if d == 0 {
		f.done(what, signal(pid, kill))
		return
	}
	if f.done(what, signal(pid, stop)) {
		f.then(ctx, d, func() { signal(pid, resume) }) //nolint:errcheck // it may have ended meanwhile
	}
}

// machines returns the PIDs of a worker's machines, found by the records that they keep.
func (f *faults) machines(worker string) (pids []int) {
	files, err := os.ReadDir(f.record)
	if err != nil {
		return nil
	}
	for _, file := range files {
		var pid int
		i := strings.LastIndexByte(file.Name(), '-')
		if _, err := fmt.Sscan(file.Name()[i+1:], &pid); err != nil ||
			!strings.Contains(file.Name(), "-"+worker+"-") {
			continue
		}
		if of(pid, f.record) {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

// counts returns how often each fault was caused.
func (f *faults) counts() (lines []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, what := range slices.Sorted(maps.Keys(f.count)) {
		lines = append(lines, fmt.Sprintf("%4d  %s", f.count[what], what))
	}
	return lines
}
