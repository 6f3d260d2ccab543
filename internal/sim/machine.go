package sim

import (
	"math"

	"github.com/ebbkit/ebb/balance"
)

// machine is one machine in its true state. Its gate is a real one.
//
// Work is counted in seconds at speed 1. attained is the work that a job in service since the
// beginning would have got; a job that enters at attained a with work w leaves when attained is
// a+w. So one number advances all jobs.
type machine struct {
	id     balance.MachineID
	index  int32
	region int32
	gate   *balance.Gate
	row    balance.Machine // what the owner publishes
	seq    uint64          // of the row

	slots    int
	fifo     bool
	speed    float64
	sick     bool
	dark     bool    // its owner is cut off
	up       bool    // started
	jobs     []job   // a heap by end
	waiting  []int32 // of a FIFO machine, in order
	attained float64
	since    int64 // when attained was last updated
	next     int64 // when the machine's pending evServe is due; never when there is none

	inFlight int // by the gate's count
	coming   int // sent to this machine and still under way
	served   int
	errored  int
	starts   int
	runs     bool    // started, starting or stopping
	runsFrom int64   // when runs was last set
	ran      int64   // nanoseconds before runsFrom
	most     int     // the most in flight at a time
	area     float64 // in flight x seconds, from the start of the run
	areaAt   int64
	// took is the smoothed time at this machine, in seconds, of requests that found so many others
	// there: probes report it.
	took      [tookUpTo]float32
	stopToken uint64 // of the stop under way
}

type job struct {
	end float64
	req int32
}

const never = math.MaxInt64

func (m *machine) rate() float64 {
	if n := len(m.jobs); n > m.slots {
		return m.speed * float64(m.slots) / float64(n)
	}
	return m.speed
}

func (m *machine) advance(now int64) {
	m.attained += m.rate() * float64(now-m.since) / 1e9
	m.since = now
}

// count keeps the integral of the number in flight.
func (m *machine) count(now int64, change int) {
	m.area += float64(m.inFlight) * float64(now-m.areaAt) / 1e9
	m.areaAt = now
	m.inFlight += change
	m.most = max(m.most, m.inFlight)
}

// enter puts an admitted request with that work into service, or in the queue.
func (m *machine) enter(now int64, req int32, work float64) {
	m.advance(now)
	if m.fifo && len(m.jobs) >= m.slots {
		m.waiting = append(m.waiting, req)
		return
	}
	m.start(req, work)
}

func (m *machine) start(req int32, work float64) {
	j := job{m.attained + work, req}
	m.jobs = append(m.jobs, j)
	i := len(m.jobs) - 1
	for i > 0 {
		up := (i - 1) / 2
		if m.jobs[up].end <= j.end {
			break
		}
		m.jobs[i] = m.jobs[up]
		i = up
	}
	m.jobs[i] = j
}

// early is how much work may be missing when a job is considered done: times are rounded to
// nanoseconds.
const early = 1e-9

// done removes a job that has got all its work, if there is one.
func (m *machine) done() (req int32, ok bool) {
	if len(m.jobs) == 0 || m.jobs[0].end > m.attained+early {
		return 0, false
	}
	req = m.jobs[0].req
	last := len(m.jobs) - 1
	j := m.jobs[last]
	m.jobs = m.jobs[:last]
	i := 0
	for {
		child := 2*i + 1
		if child >= last {
			break
		}
		if child+1 < last && m.jobs[child+1].end < m.jobs[child].end {
			child++
		}
		if m.jobs[child].end >= j.end {
			break
		}
		m.jobs[i] = m.jobs[child]
		i = child
	}
	if last > 0 {
		m.jobs[i] = j
	}
	return req, true
}

// schedule makes sure that there is an evServe when the next job ends. If one turns out to be
// early, another follows.
func (m *machine) schedule(q *queue, now int64) {
	if len(m.jobs) == 0 {
		return
	}
	wait := (m.jobs[0].end - m.attained) / m.rate() * 1e9
	if wait > 1e18 { // a machine of speed 0 makes no progress by itself
		return
	}
	at := now + max(0, int64(math.Ceil(wait)))
	if at < m.next {
		m.next = at
		q.push(at, evServe, m.index, 0)
	}
}

// serve handles evServe.
func (s *Sim) serve(m *machine, at int64) {
	if at != m.next {
		return // an earlier one came in between
	}
	m.next = never
	m.advance(s.now)
	for {
		req, ok := m.done()
		if !ok {
			break
		}
		if len(m.waiting) > 0 {
			first := m.waiting[0]
			m.waiting = m.waiting[1:]
			m.start(first, s.reqs[first].work)
		}
		s.finish(m, req)
	}
	m.schedule(&s.q, s.now)
}

// finish answers a request whose work is done.
func (s *Sim) finish(m *machine, req int32) {
	r := &s.reqs[req]
	if r.status >= 500 {
		m.errored++
	} else {
		m.served++
	}
	m.learn(int(r.found), float32(s.now-r.reached)/1e9)
	s.leave(m, req, balance.OutcomeDone)
}

const tookUpTo = 32

func (m *machine) learn(found int, took float32) {
	old := &m.took[min(found, tookUpTo-1)]
	if *old == 0 {
		*old = took
	}
	*old += (took - *old) / 8
}

// expect returns the time that a request can expect with so many others present, by those that
// found about as many.
func (m *machine) expect(found int) float64 {
	at := min(found, tookUpTo-1)
	for d := range tookUpTo {
		if i := at - d; i >= 0 && m.took[i] > 0 {
			return float64(m.took[i])
		}
		if i := at + d; i < tookUpTo && m.took[i] > 0 {
			return float64(m.took[i])
		}
	}
	return 0
}

// leave ends a request at a machine: its owner writes the machine's load into the answer, which
// includes the request, and counts it out.
func (s *Sim) leave(m *machine, req int32, outcome balance.Outcome) {
	r := &s.reqs[req]
	r.load, r.outcome = m.gate.Load(), outcome
	m.gate.Leave()
	m.count(s.now, -1)
	if m.dark {
		s.lose(req)
	} else {
		s.q.push(s.now+s.half(s.edges[r.edge].region, m.region), evReply, req, 0)
	}
	if m.inFlight == 0 && m.gate.State() == balance.StateStopping {
		s.drained(m)
	}
	s.moved()
}
