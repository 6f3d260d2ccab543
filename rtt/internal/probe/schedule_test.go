package probe

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ebbkit/ebb/rtt/internal/estimate"
)

// The agenda equals a sorted list.
func TestAgendaEqualsAList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var a agenda
		peers := make([]*peer, 26)
		for i := range peers {
			peers[i] = &peer{index: -1}
		}
		want := map[*peer]time.Time{}
		t.Repeat(map[string]func(*rapid.T){
			"set": func(t *rapid.T) {
				p := peers[rapid.IntRange(0, 20).Draw(t, "peer")]
				at := epoch.Add(time.Duration(rapid.IntRange(0, 50).Draw(t, "at")) * ms)
				a.set(p, at)
				want[p] = at
			},
			"remove": func(t *rapid.T) {
				p := peers[rapid.IntRange(0, 25).Draw(t, "peer")]
				a.remove(p)
				delete(want, p)
			},
			"": func(t *rapid.T) {
				if len(a) != len(want) {
					t.Fatalf("%d kept, want %d", len(a), len(want))
				}
				for i, p := range a {
					if p.index != i || want[p] != p.at {
						t.Fatalf("entry %d stands at %d, %v; want %v", i, p.index, p.at, want[p])
					}
					if p.at.Before(a[0].at) {
						t.Fatalf("first is %v, but there is %v", a[0].at, p.at)
					}
				}
			},
		})
	})
}

func TestPace(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	var phase []time.Duration
	for range 200 {
		p := pace{every: 5 * time.Second}
		now := epoch
		p.begin(now, r.Uint64())
		var sent []time.Duration
		for range 6 {
			now = p.next
			sent = append(sent, now.Sub(epoch))
			p.sent(now, r.Uint64())
		}
		if sent[0] >= spread || sent[1]-sent[0] != quickGap || sent[2]-sent[1] != quickGap ||
			sent[2] > 300*ms {
			t.Fatalf("first three probes at %v, want them within 300ms", sent[:3])
		}
		phase = append(phase, sent[3]-sent[2])
		for i := 4; i < 6; i++ {
			if d := sent[i] - sent[i-1]; d < 4*time.Second || d > 6*time.Second {
				t.Fatalf("steady interval %v, want 5s within 20 %%", d)
			}
		}
	}
	slices.Sort(phase)
	if phase[20] > 1500*ms || phase[180] < 3500*ms {
		t.Errorf("phases are not spread over the interval: p10 %v, p90 %v", phase[20], phase[180])
	}

	p := pace{every: 5 * time.Second, next: epoch.Add(4 * time.Second)}
	p.missed(epoch)
	if p.next != epoch.Add(quickGap) {
		t.Errorf("after a miss the next probe is due in %v, want %v", p.next.Sub(epoch), quickGap)
	}
	p.missed(epoch.Add(time.Hour))
	if p.next != epoch.Add(quickGap) {
		t.Error("a miss put the next probe off")
	}
}

func TestIntervals(t *testing.T) {
	for _, row := range []struct {
		near, far int
		n, f      time.Duration
	}{
		{0, 0, time.Second, 5 * time.Second},
		{32, 0, time.Second, 5 * time.Second},
		{72, 428, time.Second, 5 * time.Second}, // 500 peers in 40 regions: 158 per second
		{450, 0, 2 * time.Second, 10 * time.Second},
	} {
		n, f := intervals(row.near, row.far, time.Second, 5*time.Second, 250)
		if n.Round(ms) != row.n || f.Round(ms) != row.f {
			t.Errorf("%d near, %d far: %v and %v, want %v and %v", row.near, row.far, n, f, row.n, row.f)
		}
	}
}

func TestBucketKeepsItsRate(t *testing.T) {
	b := bucket{rate: 50, burst: 10}
	now, taken := epoch, 0
	for now.Before(epoch.Add(10 * time.Second)) {
		ok, at := b.take(now)
		if ok {
			taken++
			continue
		}
		if !at.After(now) {
			t.Fatal("no token, and none to wait for")
		}
		now = at
	}
	if taken < 508 || taken > 511 {
		t.Errorf("%d tokens in 10 s at 50/s with a burst of 10", taken)
	}
	if ok, _ := b.take(epoch.Add(-time.Hour)); ok {
		t.Error("time that went back made a token")
	}
}

func TestTimeout(t *testing.T) {
	for _, row := range []struct{ base, want time.Duration }{{0, time.Second}, {ms, 200 * ms}, {100 * ms, 350 * ms}, {800 * ms, 1200 * ms}} {
		if got := timeout(row.base, row.base > 0); got != row.want {
			t.Errorf("timeout for a base of %v is %v, want %v", row.base, got, row.want)
		}
	}
}

func TestFallback(t *testing.T) {
	type way = estimate.Source
	const udp, tcp, web = estimate.SourceUDP, estimate.SourceTCP, estimate.SourceHTTP
	// play probes once a second and reports the ways used; works says which ways answer.
	play := func(l *fallback, now *time.Time, n int, hasUDP, hasTCP, hasHTTP bool, works func(way) bool) (used []way) {
		for range n {
			*now = now.Add(time.Second)
			w := l.next(*now, hasUDP, hasTCP, hasHTTP, false)
			used = append(used, w)
			if w != estimate.SourceNone {
				l.result(*now, w, works(w))
			}
		}
		return used
	}
	only := func(ok ...way) func(way) bool { return func(w way) bool { return slices.Contains(ok, w) } }
	count := func(ws []way, w way) (n int) {
		for _, x := range ws {
			if x == w {
				n++
			}
		}
		return n
	}

	t.Run("udp works: nothing else is used", func(t *testing.T) {
		var l fallback
		now := epoch
		if u := play(&l, &now, 100, true, true, true, only(udp, tcp, web)); count(u, udp) != 100 {
			t.Error(u)
		}
	})
	t.Run("udp blocked: tcp, and udp every half minute", func(t *testing.T) {
		var l fallback
		now := epoch
		play(&l, &now, 12, true, true, true, only(tcp, web))
		if u := play(&l, &now, 90, true, true, true, only(tcp, web)); count(u, tcp) < 80 ||
			count(u, udp) < 2 ||
			count(u, udp) > 4 ||
			count(u, web) > 0 {
			t.Error(u)
		}
		play(&l, &now, 31, true, true, true, only(udp, tcp)) // unblocked
		if u := play(&l, &now, 50, true, true, true, only(udp, tcp)); count(u, udp) != 50 {
			t.Error("unblocked: ", u)
		}
	})
	t.Run("tcp blocked too: http", func(t *testing.T) {
		var l fallback
		now := epoch
		play(&l, &now, 15, true, true, true, only(web))
		if u := play(&l, &now, 60, true, true, true, only(web)); count(u, web) < 50 {
			t.Error(u)
		}
	})
	t.Run("tcp stops working: the search begins anew", func(t *testing.T) {
		var l fallback
		now := epoch
		play(&l, &now, 20, true, true, true, only(tcp))
		play(&l, &now, 20, true, true, true, only(web))
		if u := play(&l, &now, 60, true, true, true, only(web)); count(u, web) < 50 {
			t.Error(u)
		}
	})
	t.Run("dead: all ways are tried, udp most", func(t *testing.T) {
		var l fallback
		now := epoch
		u := play(&l, &now, 100, true, true, true, only())
		if count(u, udp) < 50 || count(u, tcp) < 20 || count(u, web) < 20 {
			t.Error(u)
		}
	})
	t.Run(
		"many udp probes fail at once: tcp is the first to be tried, and http not while that is under way",
		func(t *testing.T) {
			var l fallback
			for range 8 {
				l.result(epoch, udp, false)
			}
			var u []way
			for i := range 8 {
				u = append(u, l.next(epoch, true, true, true, i > 0 && i < 5))
			}
			if want := []way{tcp, udp, udp, udp, udp, udp, web, udp}; !slices.Equal(u, want) {
				t.Errorf("%v, want %v", u, want)
			}
		},
	)
	t.Run("no fallbacks", func(t *testing.T) {
		var l fallback
		now := epoch
		if u := play(&l, &now, 100, true, false, false, only()); count(u, udp) != 100 {
			t.Error(u)
		}
	})
	t.Run("no udp address", func(t *testing.T) {
		var l fallback
		now := epoch
		if u := play(&l, &now, 50, false, true, false, only(tcp)); count(u, tcp) != 50 {
			t.Error(u)
		}
		if u := play(&l, &now, 50, false, false, true, only(web)); count(u, web) != 50 {
			t.Error(u)
		}
		if u := play(&l, &now, 5, false, false, false, only()); count(u, estimate.SourceNone) != 5 {
			t.Error(u)
		}
	})
}
