package balance

import "math"

// Outliers are machines that fail clearly more of this node's requests than the app's other
// machines do. They are moved for a while to the tier of failing machines, which is used only when
// no other machine is left; their hard limits hold there too.
//
// A failure that occurs everywhere says nothing about a machine. So answers are compared in blocks,
// which cover the same time on all machines of the app. A failure adds evidence against its
// machine: the rarer failures are in its block, the more. A success removes evidence. There are two
// sums of evidence. The first keeps requests away: failures count as load for longer. The second
// ejects, and must allow for the fact that requests are not sent at random. Each failure sends the
// next request elsewhere, so when failures come in a row, some machines get a request only while
// all fail. The second sum therefore counts a failure only if, in its block and the ones before and
// after, no other machine failed, suspects apart.
//
// So if a machine fails everything and the others fail nothing, it is ejected after at most 10
// failures among thirty machines, 14 among ten, 28 among three and 40 of two: 6 if it gets a
// thirtieth of the requests, 32 if it gets half, and those that arrive before the decision. If the
// others fail as well it takes longer. Once a few requests in a hundred fail, the machine is
// avoided rather than ejected. A machine that cannot be compared is neither avoided nor ejected.

const (
	// blockSize is how many answers of an app a block holds at least. A block lasts at least one tick,
	// and until it is full, so that no single block is enough evidence.
	blockSize = 16
	// certain is the logarithm of how improbable a machine's failures must be: about one in 10^9.
	// Machines are compared ten times a second, and a machine that is ejected by chance leaves its
	// load to the others.
	certain = 20
	// likely is the evidence from which failures count as load for longer: two or three failures.
	likely = 7
	// excess is the share of the others' successes that an outlier fails. The evidence grows from
	// about half of it on.
	excess = 0.9
	// rarest is the least failure rate that a failure is compared with: a single failure is never
	// much evidence.
	rarest = 1.0 / 32
	// blockFade is how many blocks the averages remember.
	blockFade = 10
	// usual is the failure rate of the others from which a single failure says nothing: it does not
	// end a probation.
	usual = 0.1

	// ejectShare is the share of an app's machines that may be ejected at a time. This node sees
	// only a sample of their requests: if it were wrong about more than half of them, the rest
	// could not bear the load.
	ejectShare = 0.5
	// ejectFor is how long the first ejection lasts, in ticks. Each further one lasts as much
	// longer, up to maxEject times that.
	ejectFor, maxEject = 300, 10 // 30 s, 5 min
	// calmAfter is how long a machine must work well, in ticks, before an ejection is forgotten.
	calmAfter = 300
)

// tally counts successes and failures. During a tick a count may be off by one, even negative.
type tally struct {
	ok, failed int32
	stray      int32 // failures of machines that were not suspects at that time
}

func (t tally) and(o tally) tally { return tally{t.ok + o.ok, t.failed + o.failed, t.stray + o.stray} }

// proof returns the evidence in a machine's answers in a block: against counts its failures, pro
// its successes. all is the sum over all machines, this one included.
func (t tally) proof(all tally) (against, pro float64) {
	c := max(rarest, float64(all.failed)/float64(max(1, all.ok+all.failed)))
	if c < 1 {
		against = math.Log((1-(1-excess)*(1-c))/c) * float64(max(0, t.failed))
	}
	return against, -math.Log(1-excess) * float64(max(0, t.ok))
}

// average is a tally that fades.
type average struct{ ok, failed float32 }

func (a average) next(t tally) average {
	const keep = 1 - 1.0/blockFade
	return average{a.ok*keep + float32(t.ok), a.failed*keep + float32(t.failed)}
}

// without returns the failure rate of all machines but one, damped because few answers say little.
func (a average) without(one average) float32 {
	failed, ok := max(a.failed-one.failed, 0), max(a.ok-one.ok, 0)
	if failed < 0.5 {
		return 0
	}
	return failed / (failed + ok + 4)
}

// record holds what this node has seen of all machines of an app, as the standard to compare each
// with.
type record struct {
	open    tally // the block that is being filled
	closed  tally // the one before
	average average
	blocks  uint32 // how many have been closed
}

// close ends the block if it is full. Machines use it at the next tick.
func (r *record) close() {
	if r.open.ok+r.open.failed < blockSize {
		return
	}
	r.average = r.average.next(r.open)
	r.closed, r.open = r.open, tally{}
	r.blocks++
}

// answers holds what is known of one machine's answers.
type answers struct {
	begun   bool
	blocks  uint32 // the record's blocks that it has used
	open    tally  // its share of the block that is being filled
	average average

	suspect float64 // the first sum of evidence, from 0 to 2*certain
	proven  float64 // the second one
	pending float64 // added to proven if nothing fails elsewhere in the next block
	quiet   bool    // nothing failed elsewhere in the last block, except at suspects

	ended, failed, void uint32 // counts until the last tick
	ejected             int64  // until when it is ejected
	times               int8   // how often it was ejected recently
}

// note takes in how many requests have ended in all, and how many of those failed or said nothing.
// It reports whether a block has been compared.
func (a *answers) note(ended, failed, void uint32, r *record) (judged bool) {
	if !a.begun {
		a.begun, a.blocks = true, r.blocks
	}
	if a.blocks != r.blocks {
		a.judge(r.closed)
		a.average = a.average.next(a.open)
		a.blocks, a.open = r.blocks, tally{}
		judged = true
	}
	t := tally{failed: int32(failed - a.failed)}
	t.ok = int32((ended-a.ended)&sentMask) - t.failed - int32(void-a.void)
	if !a.suspected() {
		t.stray = t.failed
	}
	a.ended, a.failed, a.void = ended, failed, void
	a.open, r.open = a.open.and(t), r.open.and(t)
	return judged
}

// judge compares the machine's answers with the closed block.
func (a *answers) judge(all tally) {
	against, pro := a.open.proof(all)
	a.suspect = min(max(0, a.suspect+against-pro), 2*certain)
	quiet := all.stray <= a.open.stray
	if quiet {
		a.proven += a.pending
	}
	a.proven = max(0, a.proven-pro)
	a.pending = 0
	if quiet && a.quiet {
		a.pending = against
	}
	a.quiet = quiet
}

// suspected reports whether the machine seems to fail more than others.
func (a *answers) suspected() bool { return a.suspect >= likely }

// most is the most load that failures may count as: no more than the evidence supports. Failures
// during a time when all machines fail are dropped once that is known; otherwise the machine would
// be used again only the next time all fail.
func (a *answers) most() float32 { return float32(math.Exp(min(a.suspect, certain))) }

// slowed returns how many of the last ticks count for the decay of the load of its failures: fewer
// with more evidence, so that the load lasts longer.
func (a *answers) slowed(tick, dt int64) float32 {
	slow := 1 + int64(max(0, a.suspect-likely))/2
	return float32(tick/slow - (tick-dt)/slow)
}

// outlier reports whether the machine is one.
func (a *answers) outlier() bool { return a.proven >= certain }

// acquit clears the evidence.
func (a *answers) acquit() { a.suspect, a.proven, a.pending = 0, 0, 0 }

// eject ejects the machine from tick on.
func (a *answers) eject(tick int64) {
	a.times = min(a.times+1, maxEject)
	a.ejected = tick + int64(a.times)*ejectFor
	a.acquit()
}

// ejectable reports whether one more machine of an app with n usable ones may be ejected, so that
// at most ejectShare of them are afterwards. Of two or more, one always may.
func ejectable(n, out int) bool {
	return n >= 2 && (out == 0 || float64(out+1) <= ejectShare*float64(n))
}

// jury compares an app's machines with each other at one tick.
type jury struct {
	record *record
	tick   int64
	usable int // in use, or ejected
	out    int
}

// judge ejects outliers and readmits them, on probation with one request if failures are rare.
func (j *jury) judge(turned []MachineID, m *row, mem *memory, e est) ([]MachineID, est) {
	others := j.record.average.without(mem.average)
	weight := others
	if mem.suspected() {
		weight = 0
	}
	if bits := math.Float32bits(weight); bits != mem.usual.Load() {
		mem.usual.Store(bits)
	}
	switch out := mem.out.Load(); {
	case out && j.tick >= mem.ejected:
		mem.out.Store(false)
		j.out--
		e = e.withFails(0).withPenalty(0)
		if others < usual {
			e |= probeBit
		}
		return append(turned, m.id), e
	case out:
		mem.acquit()
	case m.tier != TierReady || e&probeBit != 0 && e.fails() == 0:
	case e&probeBit != 0 && others >= usual:
		e &^= probeBit
	case e&probeBit != 0 || mem.outlier():
		if ejectable(j.usable, j.out) {
			mem.eject(j.tick)
			mem.out.Store(true)
			j.out++
			return append(turned, m.id), e.withFails(0) &^ probeBit
		}
		e &^= probeBit
	case mem.times > 0 && j.tick-mem.ejected >= calmAfter:
		mem.times--
		mem.ejected = j.tick
	}
	return turned, e
}
