package cordon

import (
	"flag"
	"fmt"
	"go/parser"
	"go/token"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var full = flag.Bool("full", false, "explore larger models")

type key [52]byte

// key packs a canonical world.
func (w *world) key() (k key) {
	i := 0
	put := func(vs ...uint8) { i += copy(k[i:], vs) }
	bits := func(bs ...bool) {
		var v uint8
		for j, b := range bs {
			if b {
				v |= 1 << j
			}
		}
		put(v)
	}
	p := &w.p
	bits(
		p.suspend, p.acked, p.wanted, p.frozen, !p.quiet.IsZero(), !p.expires.IsZero(),
		!p.backoff.IsZero(), w.owed,
	)
	bits(w.gate.cordon, w.gate.touched, w.gate.wanted, w.queue[0].Suspend, w.queue[1].Suspend)
	bits(w.queue[2].Suspend, w.blind, p.fault)
	bits(w.left, w.late, w.doubt, w.told, p.lingers, w.queue[0].All, w.queue[1].All, w.queue[2].All)
	put(
		uint8(p.order), uint8(p.phase), uint8(p.token), uint8(p.gate), uint8(w.proc), uint8(w.drain),
		uint8(w.gate.state), uint8(w.gate.gen), uint8(w.gate.token), w.gate.n,
	)
	for _, c := range w.queue {
		put(uint8(c.Do), uint8(c.Token), uint8(c.Gate))
	}
	for _, c := range [...]call1{w.op, w.ans, w.dup} {
		put(uint8(c.do), uint8(c.kind), uint8(c.token))
	}
	for _, n := range w.nodes {
		put(uint8(n.known), uint8(n.ack), uint8(n.acked), uint8(n.sent))
	}
	return k
}

func (w *world) String() string {
	return fmt.Sprintf(
		"%v (gate %d acked %v wanted %v), gate %+v, process %d, queue %v, driver %v, answer %v, drain %d, nodes %v",
		w.p.phase, w.p.gate, w.p.acked, w.p.wanted, w.gate, w.proc, w.queue, w.op, w.ans, w.drain,
		w.nodes,
	)
}

// atRest reports that nothing is under way that must end.
func (w *world) atRest() bool {
	p := w.p.phase
	return !w.left && !w.late && !w.doubt && w.queue[0].Do == ActNone &&
		(p == phaseActive || p == phaseStopped) &&
		!w.gate.closing() &&
		w.gate.n == 0
}

// explore visits every world that can be reached. It returns an error with the shortest path to a
// world that breaks an invariant, or to one from which nothing leads to rest.
func (m *model) explore() (states, transitions int, err error) {
	type step struct {
		state int32
		label string
	}
	type found struct {
		state int32
		w     world
	}
	var (
		seen  = map[key]int32{}
		ways  []step     // by state: the first way there
		leads [][2]int32 // by progress, from a state to another
		rest  []bool     // by state: at rest, and in the end: progress leads to rest
		level []found    // in the order of their distance from the first
	)
	way := func(i int32) string {
		var labels []string
		for ; i > 0; i = ways[i].state {
			labels = append(labels, ways[i].label)
		}
		slices.Reverse(labels)
		return strings.Join(labels, "; ")
	}
	add := func(w *world, by step) int32 {
		k := w.key()
		i, ok := seen[k]
		if !ok {
			i = int32(len(ways))
			seen[k] = i
			ways, rest = append(ways, by), append(rest, w.atRest())
			level = append(level, found{i, *w})
		}
		return i
	}
	first := world{
		p: Machine{
			Config: Config{Quiet: m.quiet, CordonMax: time.Hour, Backoff: time.Hour, StuckAfter: time.Hour},
		},
	}
	m.canon(&first)
	add(&first, step{})
	for len(level) > 0 {
		now := level
		level = nil
		for i := range now {
			f := &now[i]
			m.next = func(label string, progress bool, n *world) {
				transitions++
				j := add(n, step{f.state, label})
				if m.err != nil && err == nil {
					err = fmt.Errorf("%w\nafter: %s; %s\nin %v", m.err, way(f.state), label, n)
				}
				if progress && j != f.state {
					leads = append(leads, [2]int32{f.state, j})
				}
			}
			if m.act(&f.w); err != nil {
				return len(ways), transitions, err
			}
		}
	}
	for more := true; more; { // the last found first: most lead to earlier ones
		more = false
		for _, l := range slices.Backward(leads) {
			if rest[l[1]] && !rest[l[0]] {
				rest[l[0]], more = true, true
			}
		}
	}
	if i := slices.Index(rest, false); i >= 0 {
		return len(ways), transitions, fmt.Errorf("nothing leads to rest after: %s", way(int32(i)))
	}
	return len(ways), transitions, nil
}

// TestMachineExhaustively visits every state of the machine and its environment, for one node, and
// with -full for two: some 4e5 states and 5e6 transitions, and then some 1.3e7 and 1.9e8. It also
// compares the diagram in the doc comment with what it saw.
func TestMachineExhaustively(t *testing.T) {
	var models []*model
	for _, quiet := range []time.Duration{0, time.Hour} {
		long := quiet > 0
		// Without races to find, a small part is enough.
		models = append(
			models, &model{nodes: 1, quiet: quiet, suspends: long, cuts: long, orders: !raceEnabled},
		)
		if *full { // some minutes and gigabytes
			models = append(
				models, &model{nodes: 1, quiet: quiet, cuts: true, orders: true, more: true},
				&model{nodes: 2, quiet: quiet, suspends: long, cuts: long, orders: !long},
			)
		}
	}
	var all sync.WaitGroup
	for _, m := range models {
		m.edges = map[change]bool{}
		all.Go(func() {
			states, transitions, err := m.explore()
			if err != nil {
				t.Errorf(
					"%d nodes, orders %v, cut off %v, more %v, quiet %v, %d states: %v", m.nodes, m.orders, m.cuts,
					m.more, m.quiet, states, err,
				)
			}
			t.Logf(
				"%d nodes, orders %v, cut off %v, more %v, quiet %v: %d states, %d transitions", m.nodes,
				m.orders, m.cuts, m.more, m.quiet, states, transitions,
			)
		})
	}
	all.Wait()
	if raceEnabled || t.Failed() {
		return
	}
	edges := map[change]bool{}
	for _, m := range models {
		maps.Copy(edges, m.edges)
	}
	var got []string
	for e := range edges {
		got = append(got, e.String())
	}
	slices.Sort(got)
	if d := cmp.Diff(diagram(t), got); d != "" {
		t.Errorf(
			"the diagram in the package comment and what the model reached (-comment +model):\n%s", d,
		)
	}
}

// diagram reads the transitions out of the package comment.
func diagram(t *testing.T) (edges []string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "doc.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^\t([a-z-]+) +--(\w+)--> +([a-z-]+)(?: +(\w+))?$`)
	for _, l := range line.FindAllStringSubmatch(f.Doc.Text(), -1) {
		line := fmt.Sprintf("%s --%s--> %s", l[1], l[2], l[3])
		if l[4] != "" {
			line += " " + l[4]
		}
		edges = append(edges, line)
	}
	slices.Sort(edges)
	return edges
}
