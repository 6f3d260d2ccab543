package sim

import (
	"fmt"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// Rule is a way to pick.
type Rule struct {
	Name  string
	build func(s *Sim, e *edge) (picker, error)
	blind bool
}

// Blind returns the rule for edges that take every answer for a success, whatever its status.
func (r Rule) Blind() Rule {
	r.Name, r.blind = r.Name+"-blind", true
	return r
}

// Balanced is the rule of this library: a real balancer over a fleet of its own at each edge. A nil
// strategy is the balancer's default.
func Balanced(name string, strategy balance.Strategy) Rule {
	return Rule{Name: name, build: func(s *Sim, e *edge) (picker, error) {
		f, err := balance.NewFleet(
			balance.FleetConfig{Node: nodeID(e), Region: s.w.Regions[e.region].Name},
		)
		if err != nil {
			return nil, err
		}
		b, err := balance.New(f, balance.Config{Strategy: strategy, Distance: believed{s, e.region}})
		if err != nil {
			return nil, err
		}
		var peers []balance.NodeID
		for i := range s.edges {
			if s.edges[i].region == e.region {
				peers = append(peers, nodeID(&s.edges[i]))
			}
		}
		b.SetPeers(peers...)
		if err := f.Apply(balance.PutApp{App: balance.App{ID: app, Limits: s.w.Limits}}); err != nil {
			return nil, err
		}
		if s.w.OneProcess {
			err = s.host(f, owner{0, len(s.machines)})
		} else {
			err = s.tell(f)
		}
		if err == nil && s.w.Grants {
			err = s.makeGrants()
		}
		if err != nil {
			return nil, err
		}
		p := &balanced{s: s, fleet: f, balancer: b, rand: newRng(s.seed, forRule, int(e.index))}
		b.OnRoom(func(balance.AppID) { p.roomy = true })
		return p, nil
	}}
}

// tell puts all rows into an edge's fleet.
func (s *Sim) tell(f *balance.Fleet) error {
	us := make([]balance.Update, len(s.machines))
	for i := range s.machines {
		us[i] = balance.PutMachine{
			Machine: s.machines[i].row,
			Version: balance.Version{Incarnation: 1, Seq: 1},
		}
	}
	return f.Apply(us...)
}

// host makes the fleet's node the owner of an owner's gates.
func (s *Sim) host(f *balance.Fleet, own owner) error {
	// Without a keeper a gate would remember no start; [Sim.stopped] performs it.
	f.Keep(balance.Keeper{Wanted: func(balance.AppID, balance.MachineID) {}})
	for i := own.first; i < own.end; i++ {
		m := &s.machines[i]
		gate, err := f.Host(m.row)
		if err != nil {
			return err
		}
		if m.up {
			token, _ := gate.Start(0)
			gate.Ready(token)
		}
		m.gate = gate
	}
	return nil
}

func nodeID(e *edge) balance.NodeID { return balance.NodeID(fmt.Sprintf("edge-%03d", e.index)) }

// believed holds the round trips that an edge in a region assumes.
type believed struct {
	s    *Sim
	from int32
}

func (b believed) RTT(region string) (time.Duration, bool) {
	for i := range b.s.w.Regions {
		if b.s.w.Regions[i].Name == region {
			return b.s.w.Believed[b.from][i], true
		}
	}
	return 0, false
}

type balanced struct {
	s        *Sim
	fleet    *balance.Fleet
	balancer *balance.Balancer
	rand     *rng
	roomy    bool
}

func (p *balanced) pick(r *request) (int32, bool) {
	held, err := p.balancer.Pick(
		balance.Request{App: app, Tried: r.tried, Rand: p.rand.uint64() | 1, Place: uint64(r.serial)},
	)
	if err != nil {
		return 0, false
	}
	m := held.Machine()
	r.held, r.knownGen = held, m.CordonGen
	r.grant, _ = r.held.GrantToken()
	return indexOf(m.ID), true
}

func (p *balanced) answer(r *request) {
	if r.load.Seq > 0 { // else no answer came back
		r.held.Observe(r.load)
	}
	r.held.Release(r.outcome)
}

func (p *balanced) report(machine int32, l *balance.Load, granted int) {
	if p.s.w.OneProcess {
		return
	}
	p.fleet.Report(
		balance.Report{
			App:         app,
			ID:          p.s.machines[machine].id,
			Load:        *l,
			Granted:     granted,
			Incarnation: 1,
		},
	)
}

func (p *balanced) row(r *sentRow) {
	if p.s.w.OneProcess {
		return // its own rows follow the gates
	}
	if err := p.fleet.Apply(balance.PutMachine{Machine: r.row, Version: r.version}); err != nil {
		panic("sim: the fleet refuses a row: " + err.Error())
	}
}

func (p *balanced) tick(now time.Time) { p.balancer.Tick(now) }

func (p *balanced) room() bool {
	was := p.roomy
	p.roomy = false
	return was
}

// Balancer returns the balancer of edge i when the rule is a [Balanced] one, else nil.
func (s *Sim) Balancer(i int) *balance.Balancer {
	if p, ok := s.edges[i].picker.(*balanced); ok {
		return p.balancer
	}
	return nil
}
