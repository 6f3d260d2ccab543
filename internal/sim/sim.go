// Package sim runs the library's cores in virtual time: one deterministic discrete-event simulation
// of regions, edges, owners and machines, in which what nodes know about each other is as late as
// in reality.
//
// A [World] describes the setting: regions and round trips, machines and how they serve, clients,
// how late reports and rows are, and what happens when. A [Rule] is how edges pick. [Run] applies
// the rule in the world and returns a [Result]. Machines have real gates, and the rule made by
// [Balanced] is the real balancer over a fleet of its own for each edge. The other rules are for
// comparison only.
//
// A request arrives at an edge. The edge picks a machine and sends the request there, which takes
// half a round trip. The machine's owner admits it or bounces it, and the machine works. The
// answer, or the bounce, travels back with the machine's load in it. A bounced request tries
// elsewhere. Everything else that an edge learns comes by reports and rows, late.
//
// Equal worlds, rules and seeds give equal results, and all rules meet the same arrivals with the
// same work.
package sim

import (
	"time"

	"github.com/ebbkit/ebb/balance"
)

// Sim is a run. It is not safe for concurrent use; concurrent runs are independent.
type Sim struct {
	w    *World
	now  int64
	q    queue
	live int  // requests that have not ended
	open bool // arrivals go on

	machines []machine
	owners   []owner
	edges    []edge
	regions  [][]int32 // machines by region
	rtt      [][]int64

	reqs        []request
	free        []int32
	serial      int64 // requests so far
	rows        []sentRow
	reports     []sentReport
	freeReports []int32
	probes      []probe
	freeProbes  []int32

	grants     *granting // nil without
	fastest    float64   // speed of any machine so far
	moves      int64     // times that a slot of a machine may have become free
	omniscient bool      // the rule knows everything at once
	blind      bool      // edges do not look at the status of answers

	links, boots *rng
	seed         uint64
	latencies    []int64 // of the measured requests
	lasted       float64 // sum of all latencies, in nanoseconds
	out          Result
}

// epoch is the time at which runs begin; any time would do.
var epoch = time.Unix(1_000_000_000, 0).UTC()

// Run applies a rule in a world.
func Run(w World, rule Rule, seed uint64) (Result, error) {
	s, err := newSim(w, rule, seed)
	if err != nil {
		return Result{}, err
	}
	s.run()
	return s.result(rule), nil
}

func newSim(w World, rule Rule, seed uint64) (*Sim, error) {
	w, err := w.resolve()
	if err != nil {
		return nil, err
	}
	s := &Sim{
		w:     &w,
		seed:  seed,
		open:  true,
		blind: rule.blind,
		links: newRng(seed, forLinks, 0),
		boots: newRng(seed, forBoots, 0),
	}
	s.rtt = make([][]int64, len(w.RTT))
	for i, row := range w.RTT {
		for _, d := range row {
			s.rtt[i] = append(s.rtt[i], int64(d))
		}
	}
	if err := s.makeMachines(); err != nil {
		return nil, err
	}
	if err := s.makeEdges(rule); err != nil {
		return nil, err
	}
	for i := range w.Script {
		s.q.push(int64(w.Script[i].At), evStep, int32(i), 0)
	}
	for i := range w.Every {
		s.q.push(int64(w.Every[i].Period), evRound, int32(i), 0)
	}
	return s, nil
}

func (s *Sim) makeMachines() error {
	w := s.w
	s.regions = make([][]int32, len(w.Regions))
	for r := range w.Regions {
		for range w.Regions[r].Machines {
			i := len(s.machines)
			gate, err := balance.NewGate(w.Limits)
			if err != nil {
				return err
			}
			m := machine{
				id:     machineID(i),
				index:  int32(i),
				region: int32(r),
				gate:   gate,
				slots:  w.Slots,
				fifo:   w.FIFO,
				speed:  w.Speed(i),
				next:   never,
			}
			m.row = balance.Machine{ID: m.id, App: app, Region: w.Regions[r].Name, Limits: w.Limits}
			if !w.Stopped(i) {
				token, _ := gate.Start(0)
				gate.Ready(token)
			}
			l := gate.Load()
			m.row.State, m.row.Epoch = l.State, l.Epoch
			m.up = l.State == balance.StateStarted
			m.run(0, m.up)
			s.fastest = max(s.fastest, m.speed)
			m.seq = 1
			s.machines = append(s.machines, m)
			s.regions[r] = append(s.regions[r], int32(i))
		}
		for first := len(s.machines) - w.Regions[r].Machines; first < len(s.machines); first += w.PerOwner {
			own := owner{first, min(first+w.PerOwner, len(s.machines))}
			for i := own.first; i < own.end; i++ {
				s.machines[i].row.Owner = ownerID(len(s.owners))
			}
			s.owners = append(s.owners, own)
		}
	}
	for o := range s.owners { // owners are not synchronized
		s.q.push(int64(s.links.float64()*float64(w.Reports.Every)), evReport, int32(o), 0)
	}
	return nil
}

// run processes events until the last request has ended.
func (s *Sim) run() {
	end := int64(s.w.Length)
	for len(s.q.heap) > 0 {
		e := s.q.pop()
		if e.at >= end && s.open {
			s.open = false
		}
		s.now = e.at
		if !s.open && s.live == 0 {
			return
		}
		switch e.kind {
		case evArrive:
			s.arrive(&s.edges[e.a], e.b)
		case evReach:
			s.reach(e.a)
		case evServe:
			s.serve(&s.machines[e.a], e.at)
		case evReply:
			s.reply(e.a)
		case evDeadline:
			s.deadline(e.a, e.b)
		case evTick:
			s.tick(&s.edges[e.a])
		case evReport:
			s.report(e.a)
		case evReported:
			s.reported(e.a, &s.edges[e.b])
		case evRow:
			row := &s.rows[e.a]
			s.edges[e.b].picker.row(row)
			s.drain(&s.edges[e.b])
		case evStep:
			s.w.Script[e.a].Do(s)
		case evRound:
			round := &s.w.Every[e.a]
			round.Do(s)
			s.q.push(s.now+int64(round.Period), evRound, e.a, 0)
		case evBurst:
			s.burst(&s.edges[e.a])
		case evBooted:
			s.booted(&s.machines[e.a], e.b)
		case evStopped:
			s.stopped(&s.machines[e.a], e.b)
		case evGrant:
			s.granted(e.a)
		case evAsk:
			s.asked(e.a)
		case evGranter:
			s.granter(e.a)
		case evProbe:
			s.probe(e.a)
		case evProbed:
			s.probed(e.a)
		}
	}
}

// half is half a round trip between two regions.
func (s *Sim) half(a, b int32) int64 { return s.rtt[a][b] / 2 }
