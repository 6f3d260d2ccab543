package sim

import (
	"fmt"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// ejected records, ten times a second, the machines that edges consider outliers.
func ejected(w *World) map[balance.MachineID]int {
	seen := map[balance.MachineID]int{}
	w.Every = append(w.Every, Round{100 * ms, func(s *Sim) {
		for i := range s.Edges() {
			v, _ := s.Balancer(i).View(app)
			for r := range v.Regions() {
				for j := range v.Len(r, balance.TierFailing) {
					seen[v.Machine(v.Slot(r, balance.TierFailing, j)).ID]++
				}
			}
		}
	}})
	return seen
}

// A path that fails on every machine, with half of the traffic, ejects no machine, whatever the
// size of the fleet and however late and little each edge hears.
func TestAPoisonPathEjectsNobody(t *testing.T) {
	n := 40
	if testing.Short() || raceEnabled {
		n = 8
	}
	for seed := range uint64(n) {
		machines, edges := []int{1, 2, 3, 10, 30}[seed%5], 1+int(seed)%4
		w := World{
			Name: "poison", Regions: Uniform(1+int(seed/5)%3, machines, edges), Slots: 2, Limits: limits(6), Work: Exponential(50 * ms), Load: 1.2, Poison: 0.5,
			Length: time.Duration(1+60/machines) * sec, Reports: Reports{Every: 250 * ms, Delay: time.Duration(seed%4) * 500 * ms, Loss: 0.2},
		}
		if seed%7 == 3 {
			w.Burst = Burst{5, 300 * ms, 1200 * ms}
		}
		seen := ejected(&w)
		r := mustRun(t, w, Balanced(ours, nil), seed)
		if len(seen) > 0 || r.Ends[Failed] < r.Requests/3 {
			t.Errorf("seed %d, %d machines, %d edges: of %d requests %d failed, ejected %v", seed, machines, edges, r.Requests, r.Ends[Failed], seen)
		}
	}
}

// A machine that answers errors at once attracts nothing, because edges look at the status; edges
// that do not send it most requests.
func TestAMachineThatFailsFastAttractsNobody(t *testing.T) {
	for _, machines := range []int{2, 5, 20} {
		t.Run(fmt.Sprint("machines=", machines), func(t *testing.T) {
			w := World{
				Name: "sick", Regions: Uniform(1, machines, 2), Slots: 4, Limits: limits(8), Work: Exponential(50 * ms), Load: 0.3, Length: 60 * sec, Warm: sec,
				Script: []Step{{0, func(s *Sim) { s.SetSick(0, true) }}},
			}
			blind := mustRun(t, w, Balanced(ours, nil).Blind(), 1)
			seen := ejected(&w)
			r := mustRun(t, w, Balanced(ours, nil), 1)
			if share := r.UnservedShare(); share > 0.01 {
				t.Errorf("%.4f of the requests went to a machine that fails", share)
			}
			if share := blind.UnservedShare(); share < 0.2 {
				t.Errorf("%.4f of the requests failed without a look at the status: not the world that was meant", share)
			}
			if len(seen) != 1 || seen["m00000"] == 0 {
				t.Errorf("ejected %v, want m00000", seen)
			}
			t.Logf("failed: %.4f, and %.4f without a look at the status", r.UnservedShare(), blind.UnservedShare())
		})
	}
}
