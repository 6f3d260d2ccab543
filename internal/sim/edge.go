package sim

import (
	"fmt"
	"math"
	"time"

	"github.com/ebbkit/ebb/backhaul"
	"github.com/ebbkit/ebb/balance"
)

// edge is a node that accepts clients.
type edge struct {
	index    int32
	region   int32
	nearest  int32 // region with machines and the least true round trip
	picker   picker
	arrivals *rng
	work     *rng

	base     float64 // arrivals per second
	factor   float64 // of the script, relative to base
	bursting bool
	gen      int32 // of the arrivals: a new rate cancels the arrival that is pending

	parked []int32 // the waiting room, by serial
	ticks  int     // so far
	tries  int     // sent out and not yet answered
}

// picker is a rule at one edge, with that edge's knowledge.
type picker interface {
	// pick chooses a machine for a request and counts it in.
	pick(r *request) (machine int32, ok bool)
	// answer takes in the answer or bounce in r and counts the request out.
	answer(r *request)
	report(machine int32, l *balance.Load, granted int)
	row(r *sentRow)
	tick(now time.Time)
	// room reports whether anything has happened since the last call that may have made room.
	room() bool
}

// request is one request; its slot in the array is reused after it has ended.
type request struct {
	serial   int64
	arrived  int64
	sent     int64
	reached  int64
	work     float64 // seconds at speed 1
	edge     int32
	machine  int32
	gen      int32 // counts the uses of this place
	found    int32 // in flight at the machine when the request got there
	tries    int32 // since it was last parked
	alive    bool
	parked   bool
	timed    bool // has a deadline pending
	poison   bool // fails wherever it goes
	status   int  // of the answer; 0 for none
	outcome  balance.Outcome
	bounce   balance.Bounce
	knownGen uint64
	load     balance.Load
	held     balance.Reservation
	grant    uint64 // token of the slot that it uses, 0 for none
	tried    []balance.MachineID
}

// tickEvery is how often an edge does its periodic work: as often as the balancer's own loop.
const tickEvery = 100 * time.Millisecond

func (s *Sim) makeEdges(rule Rule) error {
	w := s.w
	capacity := 0.0 // requests per second
	for i := range s.machines {
		capacity += float64(s.machines[i].slots) * s.machines[i].speed / w.Work.mean
	}
	demand := 0.0
	for _, r := range w.Regions {
		demand += r.Demand
	}
	for r, region := range w.Regions {
		shares := 0.0
		for i := range region.Edges {
			shares += math.Pow(float64(i+1), -w.Skew)
		}
		for i := range region.Edges {
			n := len(s.edges)
			s.edges = append(s.edges, edge{
				index: int32(n), region: int32(r), nearest: s.nearest(r), factor: 1,
				arrivals: newRng(s.seed, forArrivals, n), work: newRng(s.seed, forWork, n),
				base: w.Load * capacity * region.Demand / demand * math.Pow(float64(i+1), -w.Skew) / shares,
			})
		}
	}
	for i := range s.edges {
		e := &s.edges[i]
		p, err := rule.build(s, e)
		if err != nil {
			return fmt.Errorf("sim: rule %s: %w", rule.Name, err)
		}
		e.picker = p
		s.q.push(int64(s.links.float64()*float64(tickEvery)), evTick, e.index, 0)
		p.tick(epoch)
		e.arrivalsAnew(s)
		if w.Burst.Factor > 0 {
			s.q.push(int64(e.arrivals.exp()*float64(w.Burst.Off)), evBurst, e.index, 0)
		}
	}
	return nil
}

func (s *Sim) nearest(region int) int32 {
	best := int32(-1)
	for r, machines := range s.regions {
		if len(machines) > 0 && (best < 0 || s.rtt[region][r] < s.rtt[region][best]) {
			best = int32(r)
		}
	}
	return best
}

func (e *edge) rate(w *World) float64 {
	b := &w.Burst
	if b.Factor == 0 {
		return e.base * e.factor
	}
	low := float64(b.On+b.Off) / (float64(b.Off) + b.Factor*float64(b.On)) // so that the mean is base
	if e.bursting {
		low *= b.Factor
	}
	return e.base * e.factor * low
}

// arrivalsAnew draws the next arrival at the present rate. Arrivals are memoryless, so it may do so
// at any time.
func (e *edge) arrivalsAnew(s *Sim) {
	e.gen++
	if rate := e.rate(s.w); rate > 0 {
		s.q.push(s.now+int64(e.arrivals.exp()/rate*1e9), evArrive, e.index, e.gen)
	}
}

func (s *Sim) burst(e *edge) {
	e.bursting = !e.bursting
	phase := s.w.Burst.Off
	if e.bursting {
		phase = s.w.Burst.On
	}
	e.arrivalsAnew(s)
	s.q.push(s.now+int64(e.arrivals.exp()*float64(phase)), evBurst, e.index, 0)
}

// SetDemand sets the demand of a region's clients to factor times the initial demand, from now on.
func (s *Sim) SetDemand(region int, factor float64) {
	for i := range s.edges {
		if e := &s.edges[i]; e.region == int32(region) {
			e.factor = factor
			e.arrivalsAnew(s)
		}
	}
}

// arrive handles evArrive.
func (s *Sim) arrive(e *edge, gen int32) {
	if gen != e.gen || !s.open {
		return
	}
	s.q.push(s.now+int64(e.arrivals.exp()/e.rate(s.w)*1e9), evArrive, e.index, gen)
	req := s.newRequest(e)
	if len(e.parked) > 0 {
		s.park(e, req) // behind those that wait already
	} else if !s.try(e, req) {
		s.noRoom(e, req)
	}
}

func (s *Sim) newRequest(e *edge) int32 {
	var i int32
	if n := len(s.free); n > 0 {
		i, s.free = s.free[n-1], s.free[:n-1]
	} else {
		i = int32(len(s.reqs))
		s.reqs = append(s.reqs, request{})
	}
	r := &s.reqs[i]
	s.serial++
	*r = request{
		serial:  s.serial,
		arrived: s.now,
		work:    s.w.Work.draw(e.work),
		edge:    e.index,
		gen:     r.gen + 1,
		alive:   true,
		tried:   r.tried[:0],
	}
	if p := s.w.Poison; p > 0 {
		s.reqs[i].poison = e.work.float64() < p
	}
	s.live++
	s.out.Requests++
	return i
}

// try sends a request to a machine, if the rule finds one.
func (s *Sim) try(e *edge, req int32) bool {
	r := &s.reqs[req]
	machine, ok := e.picker.pick(r)
	if !ok {
		return false
	}
	r.machine, r.sent = machine, s.now
	r.tries++
	e.tries++
	m := &s.machines[machine]
	m.coming++
	s.q.push(s.now+s.half(e.region, m.region), evReach, req, 0)
	return true
}

// noRoom parks a request, or ends it if there is no waiting room.
func (s *Sim) noRoom(e *edge, req int32) {
	r := &s.reqs[req]
	if s.w.Queue && s.now < r.arrived+int64(s.w.Deadline) {
		s.park(e, req)
		return
	}
	s.end(req, Refused)
}

// park puts a request into the waiting room, at the place given by its arrival.
func (s *Sim) park(e *edge, req int32) {
	r := &s.reqs[req]
	if !s.w.Queue {
		panic("sim: parked without a waiting room")
	}
	s.out.Parks++
	r.parked, r.tried, r.tries = true, r.tried[:0], 0
	if !r.timed {
		r.timed = true
		s.q.push(r.arrived+int64(s.w.Deadline), evDeadline, req, r.gen)
	}
	at := len(e.parked)
	if at > 0 && s.reqs[e.parked[at-1]].serial > r.serial { // bounced: it is older than most
		for at = 0; s.reqs[e.parked[at]].serial < r.serial; at++ {
		}
	}
	e.parked = append(e.parked, 0)
	copy(e.parked[at+1:], e.parked[at:])
	e.parked[at] = req
	s.say(e, false)
}

// deadline handles evDeadline. A request that is being served is not cut off.
func (s *Sim) deadline(req, gen int32) {
	r := &s.reqs[req]
	if r.gen != gen || !r.alive || !r.parked {
		return
	}
	e := &s.edges[r.edge]
	for at, p := range e.parked {
		if p == req {
			e.parked = append(e.parked[:at], e.parked[at+1:]...)
			break
		}
	}
	r.parked = false
	s.say(e, false)
	s.end(req, TimedOut)
}

// drain sends parked requests, the oldest first, while there is room.
func (s *Sim) drain(e *edge) {
	if !e.picker.room() {
		return
	}
	for len(e.parked) > 0 && s.unpark(e) {
	}
	s.say(e, false)
}

// unpark sends the oldest parked request, if there is room for it.
func (s *Sim) unpark(e *edge) bool {
	req := e.parked[0]
	if !s.try(e, req) {
		return false
	}
	s.reqs[req].parked = false
	e.parked = e.parked[1:]
	return true
}

// reply handles evReply: an answer or a bounce is back at the edge.
func (s *Sim) reply(req int32) {
	r := &s.reqs[req]
	e := &s.edges[r.edge]
	e.tries--
	if r.outcome == balance.OutcomeDone && !s.blind && backhaul.Failed(r.status, nil) {
		r.outcome = balance.OutcomeError
	}
	e.picker.answer(r)
	switch {
	case r.outcome == balance.OutcomeBounced:
		if r.arrived >= int64(s.w.Warm) {
			s.out.Bounces++
		}
		r.tried = append(r.tried, s.machines[r.machine].id)
		if int(r.tries) >= s.w.Tries || !s.try(e, req) {
			s.noRoom(e, req)
		}
	case r.outcome == balance.OutcomeError, r.status >= 500:
		s.end(req, Failed)
	default:
		s.end(req, Served)
	}
	s.drain(e)
}

func (s *Sim) tick(e *edge) {
	e.picker.tick(epoch.Add(time.Duration(s.now)))
	if e.ticks++; e.ticks%sayAgain == 0 {
		s.say(e, true)
	}
	s.q.push(s.now+int64(tickEvery), evTick, e.index, 0)
	s.drain(e)
}

// Parked returns how many requests wait at edge i.
func (s *Sim) Parked(i int) int { return len(s.edges[i].parked) }

// Edges returns how many edges there are.
func (s *Sim) Edges() int { return len(s.edges) }
