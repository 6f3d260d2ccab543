package exchange

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// Nodes are cut off, restart and change rows over an engine that loses, repeats and reorders
// messages. Acknowledgements hold: no edge that counts as live has an older generation. In the end
// all agree.
func TestFaults(t *testing.T) {
	seeds := 8
	if testing.Short() {
		seeds = 2
	}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			c := late
			c.Jitter, c.Lose, c.Repeat, c.Seed = 40*time.Millisecond, 0.05, 0.05, uint64(seed)
			bubble(t, c, func(t *testing.T, r *rig) { faults(t, r, rand.New(rand.NewPCG(uint64(seed), 7))) })
		})
	}
}

func faults(t *testing.T, r *rig, draw *rand.Rand) {
	workers, edges := []balance.NodeID{"w1", "w2"}, []balance.NodeID{"e1", "e2"}
	machine := func(w balance.NodeID, i int) balance.MachineID { return balance.MachineID(fmt.Sprintf("m%d-%s", i, w)) }
	begin := func(id balance.NodeID) {
		n := r.start(id, "nrt", 0)
		if id[0] == 'w' {
			for i := range 3 {
				n.host(t, "web", machine(id, i))
			}
		}
	}
	for _, id := range append(workers, edges...) {
		begin(id)
	}
	acked := 0
	check := func() {
		for _, w := range workers {
			for i := range 3 {
				k := machine(w, i)
				gen := r.nodes[w].fleet.Gate("web", k).Load().CordonGen
				if gen == 0 || !r.nodes[w].link.Acked("web", k, gen) {
					continue
				}
				acked++
				for _, e := range edges {
					if of, ok := r.nodes[w].link.Node(e); !ok || of.State != "live" {
						continue
					}
					s, ok := r.nodes[e].fleet.App("web")
					if !ok {
						continue // it has restarted, and sends nothing there
					}
					if m, ok := s.Machine(k); ok && m.State != balance.StateGone && m.CordonGen < gen {
						t.Errorf("%s: generation %d of %s is acknowledged, %s knows %d", w, gen, k, e, m.CordonGen)
					}
				}
			}
		}
	}
	for range 300 {
		w := workers[draw.IntN(2)]
		any := append(workers, edges...)[draw.IntN(4)]
		switch draw.IntN(40) {
		case 0:
			r.memory.Cut(any)
		case 1, 2, 3:
			r.memory.Join()
		case 4:
			begin(any)
		case 5:
			r.memory.Cut()
		default:
			g := r.nodes[w].fleet.Gate("web", machine(w, draw.IntN(3)))
			if gen, ok := g.Cordon(); !ok {
				g.Uncordon(gen)
				g.Uncordon(g.Load().CordonGen)
			}
		}
		for range 10 {
			time.Sleep(time.Duration(draw.IntN(60)) * time.Millisecond)
			check()
		}
	}
	r.memory.Join()
	time.Sleep(15 * time.Second)
	for _, w := range workers {
		for _, e := range edges {
			for i := range 3 {
				if got, want := r.nodes[e].row("web", machine(w, i)), r.nodes[w].row("web", machine(w, i)); got != want {
					t.Errorf("in the end %s has %s of %s, its owner %s", e, got, machine(w, i), want)
				}
			}
		}
		for i := range 3 {
			gen := r.nodes[w].fleet.Gate("web", machine(w, i)).Load().CordonGen
			if !r.nodes[w].link.Acked("web", machine(w, i), gen) {
				t.Errorf("in the end nobody has acknowledged %s", machine(w, i))
			}
		}
	}
	if acked < 100 {
		t.Errorf("only %d acknowledgements were seen", acked)
	}
}
