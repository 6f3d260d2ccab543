package policy

import "time"

// slots is how many slices a window is remembered in. The peak of a window is exact to within one
// slice: a sample counts for up to 1/60 of the window longer.
const slots = 60

// window is the peak of a load over a recent period, in bounded memory. The zero value with a width
// is empty.
type window struct {
	width time.Duration // of one slot
	since time.Time     // start of slot 0; zero before the first sample
	last  int64         // the slot of the latest sample
	peaks [slots + 1]int
}

func newWindow(over time.Duration) window {
	return window{width: max(1, (over+slots-1)/slots)}
}

// add takes in a sample. A sample older than the latest is treated as one of the same time.
func (w *window) add(now time.Time, load int) {
	if w.since.IsZero() {
		w.since = now
	}
	at := max(w.last, int64(now.Sub(w.since)/w.width))
	for i := range min(at-w.last, int64(len(w.peaks))) {
		w.peaks[(w.last+1+i)%int64(len(w.peaks))] = 0
	}
	w.last = at
	p := &w.peaks[at%int64(len(w.peaks))]
	*p = max(*p, load)
}

// watched returns for how long there have been samples.
func (w *window) watched(now time.Time) time.Duration {
	if w.since.IsZero() {
		return 0
	}
	return now.Sub(w.since)
}

// peak returns the largest load of the last window, up to the latest sample.
func (w *window) peak() int {
	peak := 0
	for _, p := range w.peaks {
		peak = max(peak, p)
	}
	return peak
}
