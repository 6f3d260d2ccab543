package estimate

import (
	"slices"
	"time"
)

const (
	// windowSize is 60 samples, a minute of near probes. Its minimum is within 0.01 ms of the truth
	// in bursty queueing and changes 3 times an hour; that of 10 samples is within 0.16 ms and
	// changes 43 times.
	windowSize = 60
	// formerly is how many earlier windows count too. With queues in both directions, each of up to a
	// tenth of the path, the minimum of 60 samples is within 2 % of the truth for 70 % of the time,
	// that of 300 for 99.8 %.
	formerly = 4
	tick     = 100 * time.Nanosecond // resolution of a stored sample
)

// entry is one sample, in 8 bytes.
type entry struct {
	rtt    uint32 // in ticks
	source Source
	kernel bool
}

func (e entry) duration() time.Duration { return time.Duration(e.rtt) * tick }

// window holds the last samples and their minimum, and the minima of the windows before. The zero
// value is empty.
type window struct {
	ring  [64]entry // sample number i is at i & 63
	queue [64]uint8 // ring positions of a rising sequence of minima, oldest first
	head  uint8     // of queue, free running
	tail  uint8
	n     uint32 // samples ever pushed, wraps
	count uint8  // of them in the window
	block uint8  // samples since the last of floors

	floors [formerly]entry // minima of the windows before, in any order
	next   uint8           // of floors to be overwritten
}

// clear forgets all samples, but not their number.
func (w *window) clear() { *w = window{n: w.n} }

func (w *window) front() entry { return w.ring[w.queue[w.head&63]] }

// push appends x and keeps queue a rising sequence, so that its front is the minimum of the window.
func (w *window) push(x entry) {
	at := uint8(w.n & 63)
	if w.count == windowSize {
		if w.queue[w.head&63] == (at-windowSize)&63 {
			w.head++
		}
	} else {
		w.count++
	}
	for w.tail != w.head && w.ring[w.queue[(w.tail-1)&63]].rtt >= x.rtt {
		w.tail--
	}
	w.ring[at] = x
	w.queue[w.tail&63] = at
	w.tail++
	w.n++
	if w.block++; w.block == windowSize {
		w.floors[w.next%formerly] = w.front()
		w.next++
		w.block = 0
	}
}

// lowest returns the sample that is the base of the path: the minimum of the window, or that of an
// earlier one while they differ by less than the noise.
func (w *window) lowest() entry {
	low, least := w.front(), w.front()
	for _, f := range w.floors {
		if f.rtt > 0 && f.rtt < low.rtt {
			low = f
		}
	}
	if low.rtt < least.rtt && least.rtt-low.rtt > (w.quantile(0, int(w.count))-least.rtt)/2 {
		return least // more than noise: the path is a little longer than it was
	}
	return low
}

// least returns the least of the last n samples.
func (w *window) least(n uint32) uint32 {
	x := w.at(0).rtt
	for i := uint32(1); i < n; i++ {
		x = min(x, w.at(i).rtt)
	}
	return x
}

// at returns the sample that came i before the last.
func (w *window) at(i uint32) entry { return w.ring[(w.n-1-i)&63] }

// quantile returns the 90th percentile of the n samples that came before the last skip ones. It is
// rounded down, so that one outlier among few samples does not decide.
func (w *window) quantile(skip, n int) uint32 {
	var buf [windowSize]uint32
	for i := range n {
		buf[i] = w.at(uint32(skip + i)).rtt
	}
	slices.Sort(buf[:n])
	return buf[(n-1)*9/10]
}
