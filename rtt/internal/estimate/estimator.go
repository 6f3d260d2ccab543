package estimate

import "time"

const (
	// recent samples in a row must lie above the rest before a path counts as much longer: a
	// minimum of 60 alone would need a minute to see it. If samples are independent, ten in a row
	// above the 90th percentile happen by chance once in 10^10. Samples that meet the same queue
	// are not independent, but few queues last for ten seconds and add a quarter to the path.
	recent = 10
	// patient is how many samples it takes when the path has become longer by less than that
	// quarter. A queue of that size is common, and an error of a tenth for half a minute costs
	// little.
	patient = 30
	// fewPrior: with fewer samples than this before the change a percentile means little, so twice
	// recent is required.
	fewPrior = 4
	// forget: samples from before a silence of this length (a suspended process, a partition) say
	// nothing about the present path.
	forget = 5 * time.Minute
	// passiveHold: the kernel's minimum of a connection covers five minutes, so after a path has
	// become longer the kernel reports the old minimum for as long.
	passiveHold = 5 * time.Minute
	// lostAfter misses in a row a peer counts as lost. At 5 % loss that happens by chance once in
	// 8000 probes.
	lostAfter = 3
	// MaxRTT is the longest round trip that is accepted. Anything longer is an outage, not a
	// distance.
	MaxRTT = 30 * time.Second
)

// Estimator turns samples of one path into a distance. Its base is the minimum of the last 60
// samples, which no queue and no busy host can raise; a change test lets it follow a path that
// became much longer in ten samples instead of sixty. A path that became shorter is followed at
// once. On a noisy path 60 samples may not contain one that met no queue, so the minima of the
// four windows before count too, as long as they differ by less than half of the noise (p90 -
// minimum): on a quiet path they never do, and it is the last 60 samples alone.
//
// Observe, Miss and Lose take constant time and allocate nothing. Only differences of the times
// passed in are used, so they should carry a monotonic reading. The zero value is ready. An
// Estimator is not safe for concurrent use.
//
// Invariant: the base is one of the accepted samples, never below their minimum and never above
// the last window's minimum.
type Estimator struct {
	win    window
	above  uint8 // last samples in a row, passive ones apart, that lie clearly above the base
	missed uint8 // probes in a row without an answer
	prior  entry // base before a restart: it is used until the first new sample
	// last passive sample; it is a minimum over minutes already, so it needs no window
	passive entry
	heard   time.Time // when that came
	last    time.Time
	changed time.Time // when the path was last found longer
	every   time.Duration

	loss tally
	dir  directions
}

// Expect sets how often samples are to come; they count as missing after three times that and a
// second. Zero means 1 s.
func (e *Estimator) Expect(every time.Duration) { e.every = every }

// Observe takes in one sample and reports whether it was accepted. It rejects samples that are not
// positive or longer than 30 s, and passive ones that contradict a change which the probes have
// seen within the last five minutes.
func (e *Estimator) Observe(now time.Time, s Sample) bool {
	if s.RTT <= 0 || s.RTT > MaxRTT {
		return false
	}
	x := entry{
		rtt:    uint32(max(s.RTT/tick, 1)),
		source: s.Source,
		kernel: s.Kernel,
	}
	if e.known() && now.Sub(e.last) > forget {
		e.Restart()
	}
	if s.Source == SourcePassive {
		if e.win.count > 0 && !e.changed.IsZero() && now.Sub(e.changed) < passiveHold {
			if b := e.win.front().rtt; x.rtt < b-b/20 {
				return false
			}
		}
		e.passive, e.heard = x, now
		e.alive(now)
		return true
	}
	e.loss.add(1, 0)
	e.alive(now)
	e.win.push(x)
	e.test(now, x)
	return true
}

func (e *Estimator) alive(now time.Time) {
	e.missed = 0
	// a clock that went back must not make the sample look old
	if e.last.IsZero() || now.After(e.last) {
		e.last = now
	}
}

// known reports whether anything was measured since the peer's last restart.
func (e *Estimator) known() bool { return e.win.count > 0 || e.passive.rtt > 0 }

// base returns the sample that is the base; its rtt is 0 when there is none. A passive one counts
// for a minute.
func (e *Estimator) base() entry {
	switch p := e.passive; {
	case e.win.count == 0 && p.rtt > 0:
		return p
	case e.win.count == 0:
		return e.prior
	case p.rtt > 0 && p.rtt < e.win.front().rtt && e.last.Sub(e.heard) <= time.Minute:
		return p
	}
	return e.win.lowest()
}

// Miss takes in that a probe was not answered in the time that its path usually takes: after three
// in a row the peer is lost. The probe is not counted as lost yet: the path may have become longer,
// and the answer may be under way; see [Estimator.Lose].
func (e *Estimator) Miss() {
	if e.missed < 255 {
		e.missed++
	}
}

// Lose takes in that a probe will not be answered any more: it counts in [Stat.Loss]. Call it
// once for each such probe.
func (e *Estimator) Lose() { e.loss.add(1, 1) }

// Answered takes in that the far end, in a session of its own, answered probe seq when it had
// received count probes. Losses by direction follow from that.
func (e *Estimator) Answered(session, seq, count uint64) { e.dir.reply(session, seq, count) }

// Accepted returns how many samples were ever accepted; it wraps.
func (e *Estimator) Accepted() uint32 { return e.win.n }

// Restart forgets the window, because the peer was restarted or moved. The old base stays in use,
// as stale, until the first new sample, so that a restart never looks like a distance of zero.
func (e *Estimator) Restart() {
	e.prior = e.base()
	e.clear()
	e.changed = time.Time{}
}

func (e *Estimator) clear() {
	e.win.clear()
	e.above, e.passive = 0, entry{}
}

// test checks whether the path has become longer. It has if the last samples are all above nearly
// everything before them, which adapts to the path's own noise, and above the base: 10 of them by a
// quarter and 2 ms, or 30 of them by a tenth and 1 ms.
func (e *Estimator) test(now time.Time, x entry) {
	base := e.win.front().rtt
	if x.rtt <= base+slack(base) {
		e.above = 0
		return
	}
	e.above = min(e.above+1, windowSize)
	prior := int(e.win.count) - int(e.above)
	need := uint32(recent)
	if prior < fewPrior {
		need = 2 * recent
	}
	if uint32(e.above) < need || prior <= 0 {
		return
	}
	least := e.win.least(need)
	if least <= base+max(base/4, uint32(2*time.Millisecond/tick)) {
		if need = patient; e.above < patient {
			return
		}
		least = e.win.least(need)
	}
	if least <= e.win.quantile(int(e.above), prior) {
		return
	}
	// Longer. Keep only the samples since, oldest first. The first few may have been mere noise
	// before the change. They are left out if they are clearly below all the others; otherwise they
	// would hold the base down for a minute.
	var keep [patient]entry
	for i := range need {
		keep[i] = e.win.at(need - 1 - i)
	}
	from := uint32(0)
	for i := uint32(1); i <= 3; i++ {
		rest := keep[i].rtt
		for _, k := range keep[i:need] {
			rest = min(rest, k.rtt)
		}
		if was := keep[i-1].rtt; rest > was+slack(was) {
			from = i
		}
	}
	e.clear()
	for _, k := range keep[from:need] {
		e.win.push(k)
	}
	e.changed = now
}

// slack is by how much, in ticks, another round trip may exceed this one and still be the same
// path.
func slack(rtt uint32) uint32 { return max(rtt/10, uint32(time.Millisecond/tick)) }

// Base returns the least round trip of the window; false when nothing was ever measured.
func (e *Estimator) Base() (time.Duration, bool) {
	b := e.base()
	return b.duration(), b.rtt > 0
}

// State says what the last measurement is worth at now.
func (e *Estimator) State(now time.Time) State {
	switch {
	case e.last.IsZero():
		return StateUnknown // however many probes went unanswered
	case e.missed >= lostAfter:
		return StateLost
	case !e.known() || now.Sub(e.last) > 3*e.interval()+time.Second:
		return StateStale
	}
	return StateFresh
}

func (e *Estimator) interval() time.Duration {
	if e.every <= 0 {
		return time.Second
	}
	return e.every
}

// Stat returns everything that is known, as of now. It costs about a microsecond.
func (e *Estimator) Stat(now time.Time) Stat {
	s := Stat{
		State: e.State(now), Loss: e.loss.fraction(),
		LossOut: e.dir.out.fraction(), LossIn: e.dir.in.fraction(),
	}
	if s.State == StateUnknown {
		return s
	}
	s.Age = max(0, now.Sub(e.last))
	s.Samples = int(e.win.count)
	b := e.base()
	s.P90 = b.duration()
	if e.win.count > 0 {
		s.P90 = time.Duration(e.win.quantile(0, int(e.win.count))) * tick
	}
	s.Base, s.Source, s.Kernel = b.duration(), b.source, b.kernel
	return s
}
