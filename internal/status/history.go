package status

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// Sample is the state of a fleet at one moment, as /history lists it.
type Sample struct {
	Ago      float64 `json:"ago"` // seconds before the answer
	InFlight int     `json:"in_flight"`
	Parked   int     `json:"parked"`
	Running  int     `json:"running"` // machines started
	Requests uint64  `json:"requests,omitempty"`
}

// Historian is a [Source] that keeps a history: the page then shows the time before it was opened
// too.
type Historian interface{ History() *History }

const (
	sampleEvery = time.Second
	samplesKept = 120 // two minutes: what the page draws
)

// History keeps samples of the last two minutes. The zero value is empty and ready; all methods
// are safe for concurrent use.
type History struct {
	mu      sync.Mutex
	samples [samplesKept]kept
	next    int // where the next sample goes
	full    bool
}

type kept struct {
	at time.Time
	Sample
}

// Run takes a sample of src each second until ctx ends, and returns nil.
func (h *History) Run(ctx context.Context, src Source) error {
	t := time.NewTicker(sampleEvery)
	defer t.Stop()
	for {
		h.add(time.Now(), src.Snapshot())
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

func (h *History) add(now time.Time, s Snapshot) {
	k := kept{at: now, Sample: Sample{InFlight: s.InFlight, Parked: s.Parked, Requests: s.Requests}}
	for _, m := range s.Machines {
		if m.State == "started" {
			k.Running++
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.samples[h.next] = k
	if h.next = (h.next + 1) % samplesKept; h.next == 0 {
		h.full = true
	}
}

// list returns the samples, oldest first, with their ages at now.
func (h *History) list(now time.Time) []Sample {
	h.mu.Lock()
	defer h.mu.Unlock()
	n, first := h.next, 0
	if h.full {
		n, first = samplesKept, h.next
	}
	list := make([]Sample, n)
	for i := range list {
		k := &h.samples[(first+i)%samplesKept]
		list[i] = k.Sample
		list[i].Ago = now.Sub(k.at).Seconds()
	}
	return list
}

func listHistory(w http.ResponseWriter, src Source) {
	list := []Sample{}
	if h, ok := src.(Historian); ok {
		list = h.History().list(time.Now())
	}
	writeJSON(w, list)
}
