package sim

import (
	"fmt"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// app is the only app of a world.
const app balance.AppID = "app"

// reach handles evReach: the owner admits the request or bounces it.
func (s *Sim) reach(req int32) {
	r := &s.reqs[req]
	m := &s.machines[r.machine]
	m.coming--
	if m.dark {
		s.lose(req)
		return
	}
	load, bounce := m.gate.Enter(r.grant, 0, r.knownGen)
	if bounce != balance.BounceNone {
		r.load, r.outcome, r.bounce = load, balance.OutcomeBounced, bounce
		s.q.push(s.now+s.half(s.edges[r.edge].region, m.region), evReply, req, 0)
		return
	}
	r.reached, r.found = s.now, int32(m.inFlight)
	m.count(s.now, 1)
	work := r.work
	if r.status = 200; m.sick || r.poison {
		work, r.status = sickWork, 500
	}
	m.enter(s.now, req, work)
	m.schedule(&s.q, s.now)
}

// sickWork is the work of answering 500: 1 ms, less than any real work, which is what makes a sick
// machine attractive.
const sickWork = 1e-3

// lose makes the edge give up a request: its answer will not come.
func (s *Sim) lose(req int32) {
	r := &s.reqs[req]
	r.load, r.outcome, r.status = balance.Load{}, balance.OutcomeError, 0
	s.q.push(max(s.now, r.sent+int64(s.w.Timeout)), evReply, req, 0)
}

// publish sends the machine's row, as its gate is now, to all edges.
func (s *Sim) publish(m *machine) {
	l := m.gate.Load()
	m.up = l.State == balance.StateStarted
	m.run(s.now, !l.State.Startable())
	m.row.State, m.row.Cordon, m.row.CordonGen, m.row.Epoch = l.State, l.Cordon, l.CordonGen, l.Epoch
	m.seq++
	s.rows = append(s.rows, sentRow{m.row, balance.Version{Incarnation: 1, Seq: m.seq}, m.index})
	for e := range s.edges {
		late := s.w.Rows
		if j := s.w.RowJitter; j > 0 {
			late += time.Duration(s.links.float64() * float64(j))
		}
		s.q.push(s.now+int64(late), evRow, int32(len(s.rows)-1), int32(e))
	}
}

// run accounts for the time that the machine must be paid for.
func (m *machine) run(now int64, runs bool) {
	if m.runs {
		m.ran += now - m.runsFrom
	}
	m.runs, m.runsFrom = runs, now
}

type sentRow struct {
	row     balance.Machine
	version balance.Version
	machine int32
}

// owner owns a range of machines and reports them.
type owner struct{ first, end int }

// sentReport is an owner's report at one moment; it is reused when all edges have it.
type sentReport struct {
	owner int32
	left  int32 // edges that will still get it
	loads []balance.Load
	given []int // slots granted, by machine
}

// report handles evReport.
func (s *Sim) report(o int32) {
	own := s.owners[o]
	var i int32
	if n := len(s.freeReports); n > 0 {
		i, s.freeReports = s.freeReports[n-1], s.freeReports[:n-1]
	} else {
		i = int32(len(s.reports))
		s.reports = append(s.reports, sentReport{})
	}
	rep := &s.reports[i]
	rep.owner, rep.left, rep.loads, rep.given = o, 0, rep.loads[:0], rep.given[:0]
	for m := own.first; m < own.end; m++ {
		rep.loads = append(rep.loads, s.machines[m].gate.Load())
		rep.given = append(rep.given, s.machines[m].gate.Granted())
	}
	dark := s.machines[own.first].dark
	p := &s.w.Reports
	for e := range s.edges {
		if dark || p.Loss > 0 && s.links.float64() < p.Loss {
			continue
		}
		rep.left++
		s.q.push(s.now+int64(p.Delay)+int64(s.links.float64()*float64(p.Jitter)), evReported, i, int32(e))
	}
	if rep.left == 0 {
		s.freeReports = append(s.freeReports, i)
	}
	s.q.push(s.now+int64(p.Every), evReport, o, 0)
}

// reported handles evReported.
func (s *Sim) reported(report int32, e *edge) {
	rep := &s.reports[report]
	first := int32(s.owners[rep.owner].first)
	for i := range rep.loads {
		e.picker.report(first+int32(i), &rep.loads[i], rep.given[i])
	}
	if rep.left--; rep.left == 0 {
		s.freeReports = append(s.freeReports, report)
	}
	s.drain(e)
}

// Machines returns how many machines there are.
func (s *Sim) Machines() int { return len(s.machines) }

// Now returns the time since the run began.
func (s *Sim) Now() time.Duration { return time.Duration(s.now) }

// InFlight returns the true number in flight at machine i.
func (s *Sim) InFlight(i int) int { return s.machines[i].inFlight }

// State returns the true state of machine i.
func (s *Sim) State(i int) balance.State { return s.machines[i].gate.State() }

// SetSpeed makes machine i faster or slower from now on, without telling anybody.
func (s *Sim) SetSpeed(i int, speed float64) {
	m := &s.machines[i]
	m.advance(s.now)
	m.speed = speed
	s.fastest = max(s.fastest, speed)
	m.next = never
	m.schedule(&s.q, s.now)
}

// SetSick makes machine i answer each request with status 500 within a millisecond, or heals it.
// Its health checks do not notice.
func (s *Sim) SetSick(i int, sick bool) { s.machines[i].sick = sick }

// SetDark cuts off machine i's owner, with all of its machines, or reconnects it: everything that
// is sent there and everything that it answers is lost, and edges give up after the world's
// timeout. Its rows stay as they are.
func (s *Sim) SetDark(i int, dark bool) {
	for _, o := range s.owners {
		if o.first <= i && i < o.end {
			for m := o.first; m < o.end; m++ {
				s.machines[m].dark = dark
			}
		}
	}
}

// Start starts machine i, if it can be started, and returns the owner's answer to a start command.
func (s *Sim) Start(i int) balance.StartAnswer {
	m := &s.machines[i]
	token, a := m.gate.Start(m.gate.Load().Epoch)
	if a == balance.StartAccepted {
		m.starts++
		s.publish(m)
		s.q.push(s.now+int64(s.w.Boot.draw(s.boots)*1e9), evBooted, m.index, int32(token))
	}
	return a
}

func (s *Sim) booted(m *machine, token int32) {
	if m.gate.Ready(uint64(token)) {
		s.publish(m)
		s.moved()
	}
}

// Stop closes machine i at once, lets it finish its requests, and stops it. It reports whether the
// machine was started.
func (s *Sim) Stop(i int) bool {
	m := &s.machines[i]
	token, ok := m.gate.CloseNow()
	if !ok {
		return false
	}
	m.stopToken = token
	s.publish(m)
	if m.inFlight == 0 {
		s.drained(m)
	}
	return true
}

// Restart stops machine i and starts it again afterwards.
func (s *Sim) Restart(i int) {
	if s.Stop(i) {
		s.Start(i) // the gate remembers it
	}
}

func (s *Sim) drained(m *machine) {
	s.q.push(s.now+int64(s.w.Stop.draw(s.boots)*1e9), evStopped, m.index, int32(m.stopToken))
}

func (s *Sim) stopped(m *machine, token int32) {
	again, ok := m.gate.Closed(uint64(token), false)
	if !ok {
		return
	}
	s.publish(m)
	if again {
		s.Start(int(m.index))
	}
}

// Crash ends machine i's run: its requests in flight fail, and its owner bounces requests until it
// is started again.
func (s *Sim) Crash(i int) {
	m := &s.machines[i]
	if !m.gate.Exited(m.gate.Load().Epoch, true) {
		return
	}
	m.advance(s.now)
	lost := make([]int32, 0, len(m.jobs)+len(m.waiting))
	for _, j := range m.jobs {
		lost = append(lost, j.req)
	}
	lost = append(lost, m.waiting...)
	m.jobs, m.waiting, m.next = m.jobs[:0], m.waiting[:0], never
	for _, req := range lost {
		m.errored++
		s.leave(m, req, balance.OutcomeError)
	}
	s.publish(m)
}

// Cordon soft-cordons machine i; Uncordon ends that.
func (s *Sim) Cordon(i int) (gen uint64, ok bool) {
	m := &s.machines[i]
	if gen, ok = m.gate.Cordon(); ok {
		s.publish(m)
	}
	return gen, ok
}

// Uncordon ends the soft cordon of that generation.
func (s *Sim) Uncordon(i int, gen uint64) bool {
	m := &s.machines[i]
	ok := m.gate.Uncordon(gen)
	if ok {
		s.publish(m)
	}
	return ok
}

func machineID(i int) balance.MachineID { return balance.MachineID(fmt.Sprintf("m%05d", i)) }

// indexOf is the inverse of machineID.
func indexOf(id balance.MachineID) int32 {
	n := int32(0)
	for _, c := range []byte(id[1:]) {
		n = n*10 + int32(c-'0')
	}
	return n
}
