package estimate

// tally counts losses over the last 256 to 512 events in constant space: of two generations, the
// older is dropped whole. Telling 1 % from 0.1 % takes some 300 to 500 events; a longer memory
// would only report old conditions.
type tally struct{ n, lost, oldN, oldLost uint16 }

const generation = 256

func (t *tally) add(n, lost int) {
	n = min(max(n, 0), 2*generation)
	lost = min(max(lost, 0), n)
	t.n += uint16(n)
	t.lost += uint16(lost)
	if t.n >= generation {
		t.oldN, t.oldLost, t.n, t.lost = t.n, t.lost, 0, 0
	}
}

// takeBack turns one counted loss into a success: the packet was only overtaken.
func (t *tally) takeBack() {
	switch {
	case t.lost > 0:
		t.lost--
	case t.oldLost > 0:
		t.oldLost--
	}
}

func (t *tally) fraction() Fraction {
	return Fraction{Lost: uint32(t.lost) + uint32(t.oldLost), N: uint32(t.n) + uint32(t.oldN)}
}

// directions splits loss into the two ways of a path. Every answer carries how many probes of
// this sender the far end has received; between two answers the sender knows how many it sent,
// the far end how many came, and the rest follows.
type directions struct {
	session uint64 // of the far end; another one means that its counts were reset
	seq     uint64 // highest sequence answered
	count   uint64 // the far end's count in that answer
	out, in tally
}

// reply takes in the answer to probe seq with the far end's count. Probes sent before the first
// answer of a session are not counted: the far end may not have been up.
func (d *directions) reply(session, seq, count uint64) {
	if session != d.session || d.seq == 0 {
		d.session, d.seq, d.count = session, seq, count
		return
	}
	if seq <= d.seq { // overtaken, as all are for a moment when a path becomes shorter
		if count <= d.count {
			d.in.takeBack() // on its way back: it had been counted as lost there
			return
		}
		// on its way there: the far end had it after the one that was answered before
		if d.found(count-d.count) > 0 {
			d.in.takeBack()
		}
		d.count = count
		return
	}
	sent := seq - d.seq
	if count <= d.count || sent > 1<<16 {
		d.seq, d.count = seq, count // the far end forgot this node meanwhile
		return
	}
	arrived := count - d.count
	if arrived > sent { // more than were sent: earlier probes were overtaken
		d.found(arrived - sent)
		arrived = sent
	}
	d.out.add(int(sent), int(sent-arrived))
	d.in.add(int(arrived), int(arrived-1))
	d.seq, d.count = seq, count
}

// found takes in that n probes which had been counted as lost on their way out have arrived, and
// returns how many were. Their answers are awaited.
func (d *directions) found(n uint64) uint64 {
	n = min(n, uint64(d.out.fraction().Lost))
	for range n {
		d.out.takeBack()
		d.in.add(1, 1)
	}
	return n
}
