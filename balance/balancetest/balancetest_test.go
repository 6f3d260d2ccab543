package balancetest_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/balancetest"
)

func TestStrategies(t *testing.T) {
	for name, s := range map[string]balance.Strategy{
		"closest": balance.Closest{}, "closest, strict": balance.Closest{SpillAt: -1}, "closest, two choices": balance.Closest{Choices: 2},
		"leastload": balance.LeastLoad{}, "leastload, two choices": balance.LeastLoad{Choices: 2}, "pack": balance.Pack{}, "firm": Firm{},
	} {
		t.Run(name, func(t *testing.T) {
			newStrategy := func() balance.Strategy { return s }
			balancetest.TestStrategy(t, newStrategy)
			if name != "pack" { // it wants the others asleep
				balancetest.TestSpreads(t, newStrategy)
			}
		})
	}
}

// Firm is a strategy of one's own. It stays in the nearest region as long as that has anything,
// takes the least used machine there, of equal ones any, and leaves the rest to the balancer.
type Firm struct{}

// Pick implements balance.Strategy.
func (Firm) Pick(v *balance.View, r balance.Request) (best balance.Slot, ok bool) {
	var chance rand.PCG
	chance.Seed(r.Rand, 0)
	for tier := balance.TierReady; tier < balance.TierNone; tier++ {
		for region := range v.Regions() {
			var least, c balance.Candidate
			equals := uint64(0)
			for i := range v.Len(region, tier) {
				s := v.Slot(region, tier, i)
				switch {
				case !v.Usable(s, &r, &c):
				case !ok || c.Use() < least.Use():
					best, least, equals, ok = s, c, 1, true
				case c.Use() == least.Use():
					if equals++; chance.Uint64()%equals == 0 {
						best = s
					}
				}
			}
			if ok {
				return best, true
			}
		}
	}
	return best, false
}

type trips map[string]time.Duration

func (t trips) RTT(region string) (time.Duration, bool) { d, ok := t[region]; return d, ok }

// A strategy of one's own; the suite checks it in TestStrategies.
func Example() {
	fleet, _ := balance.NewFleet(balance.FleetConfig{Node: "edge", Region: "nrt"})
	b, _ := balance.New(
		fleet,
		balance.Config{
			Strategy: Firm{}, Distance: trips{"nrt": time.Millisecond, "hkg": 50 * time.Millisecond},
		},
	)
	for i, region := range []string{"nrt", "nrt", "hkg"} {
		m := balance.Machine{
			ID: balance.MachineID(fmt.Sprint(region, i)), App: "web", Region: region, Owner: "w",
			State: balance.StateStarted,
		}
		fleet.Apply(balance.PutMachine{Machine: m, Version: balance.Version{Incarnation: 1, Seq: 1}})
	}
	for range 4 {
		r, err := b.Pick(balance.Request{App: "web"})
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(r.Machine().Region)
	}
	// Output:
	// nrt
	// nrt
	// nrt
	// nrt
}

func TestFleet(t *testing.T) {
	balancetest.TestFleet(t, func() balancetest.Fleet {
		f, err := balance.NewFleet(balance.FleetConfig{Node: "edge", Region: "nrt"})
		if err != nil {
			t.Fatal(err)
		}
		return f
	})
}

// broken are strategies that each break one promise.
var broken = map[string]balance.StrategyFunc{
	"takes whatever comes first": func(v *balance.View, r balance.Request) (balance.Slot, bool) {
		for i := range v.Regions() {
			if v.Len(i, balance.TierReady) > 0 {
				return v.Slot(i, balance.TierReady, 0), true
			}
		}
		return balance.Slot{}, false
	},
	"never takes a cordoned one": func(v *balance.View, r balance.Request) (balance.Slot, bool) {
		var c balance.Candidate
		for i := range v.Regions() {
			for j := range v.Len(i, balance.TierReady) {
				if s := v.Slot(i, balance.TierReady, j); v.Usable(s, &r, &c) {
					return s, true
				}
			}
		}
		return balance.Slot{}, false
	},
	"prefers the worst tier": func(v *balance.View, r balance.Request) (balance.Slot, bool) {
		var c balance.Candidate
		for tier := balance.TierFailing; ; tier-- {
			for i := range v.Regions() {
				for j := range v.Len(i, tier) {
					if s := v.Slot(i, tier, j); v.Usable(s, &r, &c) {
						return s, true
					}
				}
			}
			if tier == balance.TierReady {
				return balance.Slot{}, false
			}
		}
	},
}

// The suite finds what is wrong: each broken strategy fails it, in a process of its own.
func TestSuiteFindsBrokenStrategies(t *testing.T) {
	if name := os.Getenv("BALANCETEST_BROKEN"); name != "" {
		balancetest.TestStrategy(t, func() balance.Strategy { return broken[name] })
		return
	}
	for name := range broken {
		cmd := exec.Command(
			os.Args[0], "-test.run=^TestSuiteFindsBrokenStrategies$", "-rapid.nofailfile",
			"-rapid.shrinktime=1ms",
		)
		cmd.Env = append(os.Environ(), "BALANCETEST_BROKEN="+name)
		if out, err := cmd.CombinedOutput(); err == nil {
			t.Errorf("a strategy that %s passes the suite:\n%s", name, out)
		}
	}
}
