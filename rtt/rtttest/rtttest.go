// Package rtttest checks that a source of distances keeps the contract which a router relies on.
package rtttest

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// Source is one distance source under test.
type Source struct {
	// Distance is what a router asks: the round trip to a region, and whether it is known. It is the
	// interface that package balance declares; *rtt.Mesh and *rtt.Table implement it.
	Distance interface {
		RTT(region string) (time.Duration, bool)
	}
	// Lose makes everything in a region unreachable and returns when the source has noticed. Nil
	// skips the clauses about loss.
	Lose func(region string)
}

// TestDistance runs the contract of a distance source, one subtest per clause:
//
//   - the source's own region is 0 and true;
//   - an unknown region is 0 and false, and so is the empty name: unknown is never near;
//   - a measured region is known, positive, and within a quarter and 5 ms of the truth;
//   - regions that differ by more than max(2 ms, 10 %) sort by RTT as their true round trips do;
//   - concurrent reads return the same as single ones, and reading allocates nothing;
//   - a lost region is 0 and false; the other regions and the own region do not change.
//
// open makes a source for a node in region own, with the given round trips to other regions, and
// returns once it had the time to learn them. It registers its own cleanup.
func TestDistance(
	t *testing.T, open func(t *testing.T, own string, truth map[string]time.Duration) Source,
) {
	const own = "home"
	const ms = time.Millisecond
	truth := map[string]time.Duration{"near": 15 * ms, "mid": 45 * ms, "far": 120 * ms}
	src := open(t, own, truth)
	d := src.Distance

	t.Run("the own region is 0 and true", func(t *testing.T) { wantOwn(t, src, own) })
	t.Run("unknown is 0 and false", func(t *testing.T) {
		for _, r := range []string{"", "nowhere", "Near", "near "} {
			if rtt, ok := d.RTT(r); rtt != 0 || ok {
				t.Errorf("RTT(%q) = %v, %v; want 0, false: unknown is not near", r, rtt, ok)
			}
		}
	})
	t.Run("a measured region is near the truth", func(t *testing.T) {
		for r, want := range truth {
			got, ok := d.RTT(r)
			if !ok || got <= 0 {
				t.Errorf("RTT(%q) = %v, %v; want about %v, true", r, got, ok, want)
				continue
			}
			if off := got - want; off > want/4+5*time.Millisecond || -off > want/4+5*time.Millisecond {
				t.Errorf("RTT(%q) = %v, true round trip %v: more than a quarter and 5ms off", r, got, want)
			}
		}
	})
	t.Run("order is as in truth", func(t *testing.T) {
		var names []string
		for r := range truth {
			names = append(names, r)
		}
		slices.SortFunc(names, func(a, b string) int {
			x, _ := d.RTT(a)
			y, _ := d.RTT(b)
			return int(x - y)
		})
		if want := []string{"near", "mid", "far"}; !slices.Equal(names, want) {
			t.Errorf("sorted by RTT: %v, want %v", names, want)
		}
	})
	t.Run("concurrent reads are sane", func(t *testing.T) {
		var wg sync.WaitGroup
		errs := make(chan error, 8)
		for range 8 {
			wg.Go(func() {
				for range 1000 {
					for r := range truth {
						if rtt, ok := d.RTT(r); !ok || rtt <= 0 {
							errs <- fmt.Errorf("RTT(%q) = %v, %v while others read", r, rtt, ok)
							return
						}
					}
				}
			})
		}
		wg.Wait()
		close(errs)
		for err := range errs {
			t.Error(err)
		}
	})
	t.Run("reading allocates nothing", func(t *testing.T) {
		// Other goroutines of the source may allocate meanwhile, hence a share of many reads, and more
		// than one try.
		n := 1.0
		for i := 0; i < 10 && n >= 1; i++ {
			n = testing.AllocsPerRun(2000, func() { d.RTT("near"); d.RTT(own); d.RTT("nowhere") })
		}
		if n >= 1 {
			t.Errorf("%v allocations per three reads, want none", n)
		}
	})
	if src.Lose == nil {
		return
	}
	t.Run("a lost region is 0 and false, others stay", func(t *testing.T) {
		src.Lose("near")
		if rtt, ok := d.RTT("near"); rtt != 0 || ok {
			t.Errorf("RTT of a lost region = %v, %v; want 0, false", rtt, ok)
		}
		for _, r := range []string{"mid", "far"} {
			if rtt, ok := d.RTT(r); !ok || rtt <= 0 {
				t.Errorf("RTT(%q) = %v, %v after another region was lost", r, rtt, ok)
			}
		}
		wantOwn(t, src, own)
	})
}

func wantOwn(t *testing.T, src Source, own string) {
	t.Helper()
	if rtt, ok := src.Distance.RTT(own); rtt != 0 || !ok {
		t.Errorf("RTT of the own region = %v, %v; want 0, true", rtt, ok)
	}
}
