package report

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/status"
)

const (
	// pickEvery is the sampling interval of explanations: one pick in so many is explained, often
	// enough for a person and seldom enough to cost nothing.
	pickEvery = 64
	// picksKept is how many explanations are kept.
	picksKept = 40
)

// Picks keeps the latest explanations of picks. The zero value is ready to use, and safe for
// concurrent use.
type Picks struct {
	mu   sync.Mutex
	kept []status.Pick // oldest first
}

func (p *Picks) add(k status.Pick) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.kept) == picksKept {
		p.kept = slices.Delete(p.kept, 0, 1)
	}
	p.kept = append(p.kept, k)
}

// List returns the explanations that are kept, newest first.
func (p *Picks) List() []status.Pick {
	p.mu.Lock()
	defer p.mu.Unlock()
	ks := slices.Clone(p.kept)
	slices.Reverse(ks)
	return ks
}

// explained converts an explanation for the status page.
func explained(node balance.NodeID, x balance.Explanation) status.Pick {
	k := status.Pick{
		Time: time.Now(), Node: string(node), App: string(x.App), Machine: string(x.Picked.ID),
		Region: x.Picked.Region, Reason: x.Why,
	}
	if x.Err != nil {
		k.Reason = cmp.Or(k.Reason, x.Err.Error())
	}
	for _, r := range x.Regions {
		var rtt *float64
		if r.Known {
			rtt = new(Millis(r.RTT))
		}
		for _, c := range r.Best {
			k.Candidates = append(k.Candidates, status.Candidate{
				Machine: string(c.ID), Region: r.Name, Load: c.Load, Soft: c.Limits.Soft,
				Hard: c.Limits.Hard, RTT: rtt, Note: noted(&c),
			})
		}
		if r.Full+r.Excluded > 0 {
			k.Candidates = append(k.Candidates, status.Candidate{
				Region: r.Name, RTT: rtt,
				Note: fmt.Sprintf("%d full, %d tried already", r.Full, r.Excluded),
			})
		}
	}
	return k
}

func noted(c *balance.Candidate) string {
	switch s := c.Tier.String(); {
	case c.SaidFull:
		return s + ", just said full"
	case c.Busy():
		return s + ", at its soft limit"
	default:
		return s
	}
}

// Millis returns d in milliseconds, as the status page shows it.
func Millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
