package sim

import (
	"fmt"
	"time"

	"github.com/ebbkit/ebb/balance"
)

const sec = time.Second

// world is a world in which rules are compared. Short runs shorten the lengths that build asks for.
type world struct {
	name  string
	build func(l lengthen) World
}

type lengthen func(full time.Duration) time.Duration

var worlds = []world{
	{"steady-20", func(l lengthen) World {
		return World{About: "three regions at 20 %: only ties and distance matter",
			Regions: Uniform(3, 12, 2), Slots: 1, Limits: limits(4), Work: Exponential(50 * ms), Load: 0.2, Length: l(400 * sec)}
	}},
	{"steady-80", func(l lengthen) World {
		return World{About: "three regions at 80 %",
			Regions: Uniform(3, 12, 2), Slots: 2, Limits: limits(6), Work: Exponential(50 * ms), Load: 0.8, Length: l(50 * sec)}
	}},
	{"hot", func(l lengthen) World {
		t := max(3*sec, l(10*sec)) // shares of regions take a while to settle
		return World{About: "one of four regions is offered 1.14 x its soft capacity, the others 0.6 x",
			Regions: demand(Uniform(4, 20, 8), 1.14, 0.6, 0.6, 0.6), Limits: balance.Limits{Soft: 20, Hard: 25}, Reports: every250,
			Work: Exponential(100 * ms), Load: (1.14 + 3*0.6) / 4, Length: t, Warm: max(1500*ms, t/3)}
	}},
	{"flash", func(l lengthen) World {
		t := l(50 * sec)
		return World{About: "a flash crowd: one region's demand grows to three times its own, and falls back",
			Regions: Uniform(3, 12, 2), Slots: 4, Limits: limits(8), Work: Exponential(100 * ms), Load: 0.45, Length: t,
			Script: []Step{{t * 3 / 10, func(s *Sim) { s.SetDemand(0, 3) }}, {t * 7 / 10, func(s *Sim) { s.SetDemand(0, 1) }}}}
	}},
	{"bursty", func(l lengthen) World {
		return World{About: "each edge's arrivals come in bursts of 5 x the rate",
			Regions: Uniform(3, 12, 4), Slots: 2, Limits: limits(6), Work: Exponential(50 * ms), Load: 0.6, Length: l(70 * sec),
			Burst: Burst{5, 300 * ms, 1200 * ms}}
	}},
	{"uneven", func(l lengthen) World {
		return World{About: "every fifth machine has half the speed",
			Regions: Uniform(2, 20, 5), Slots: 2, Limits: limits(6), Work: Exponential(100 * ms), Load: 0.7, Length: l(100 * sec), Reports: every250,
			Speed: func(i int) float64 {
				if i%5 == 0 {
					return 0.5
				}
				return 1
			}}
	}},
	{"tail", func(l lengthen) World {
		return World{About: "lognormal work with a heavy tail",
			Regions: Uniform(2, 16, 4), Slots: 2, Limits: limits(6), Work: Lognormal(100*ms, 2), Load: 0.75, Length: l(130 * sec)}
	}},
	{"bimodal", func(l lengthen) World {
		return World{About: "one request in 50 takes 100 x as long, on machines that serve in order",
			Regions: Uniform(2, 16, 4), Slots: 2, FIFO: true, Limits: limits(6), Work: Bimodal(20*ms, 2*sec, 0.02), Load: 0.6, Length: l(100 * sec)}
	}},
	{"fifo", func(l lengthen) World {
		return World{About: "lognormal work on machines that serve in order",
			Regions: Uniform(2, 16, 4), Slots: 2, FIFO: true, Limits: limits(6), Work: Lognormal(50*ms, 1.5), Load: 0.75, Length: l(65 * sec), Reports: every250}
	}},
	late(200 * ms), late(500 * ms), late(1 * sec), late(2 * sec),
	{"zipf", func(l lengthen) World {
		return World{About: "edges of very different size (Zipf 1.2)",
			Regions: Uniform(2, 20, 12), Slots: 2, Limits: limits(6), Work: Exponential(50 * ms), Load: 0.85, Length: l(45 * sec), Skew: 1.2, Reports: every250}
	}},
	{"crowd", func(l lengthen) World {
		return World{About: "sixty edges to 24 machines: nobody's own count says anything",
			Regions: Uniform(1, 24, 60), Slots: 2, Limits: limits(6), Work: Exponential(50 * ms), Load: 0.85, Length: l(70 * sec), Reports: every250}
	}},
	{"lossy", func(l lengthen) World {
		return World{About: "half of all reports are lost, the others come up to a second late",
			Regions: Uniform(3, 12, 4), Slots: 4, Limits: balance.Limits{Soft: 7, Hard: 10}, Work: Exponential(100 * ms), Load: 0.85, Length: l(50 * sec),
			Reports: Reports{Every: 250 * ms, Delay: 100 * ms, Jitter: 900 * ms, Loss: 0.5}}
	}},
	{"hard-reject", func(l lengthen) World {
		return World{About: "hard limits near the load, and no waiting room",
			Regions: Uniform(2, 16, 5), Slots: 4, Limits: balance.Limits{Soft: 6, Hard: 8}, Work: Exponential(200 * ms), Load: 0.9, Length: l(100 * sec), Reports: every250}
	}},
	{"hard-queue", func(l lengthen) World {
		return World{About: "hard limits near the load, and a waiting room at each edge",
			Regions: Uniform(2, 16, 5), Slots: 4, Limits: balance.Limits{Soft: 4, Hard: 5}, Work: Exponential(200 * ms), Load: 0.9, Length: l(100 * sec), Reports: every250, Queue: true}
	}},
	{"one-process", func(l lengthen) World {
		return World{About: "edge and owner are one, as the library is used by default; a crash and a restart on the way",
			Regions: Uniform(1, 12, 1), RTT: Line(1, 0, 0), OneProcess: true, Slots: 2, Limits: balance.Limits{Soft: 3, Hard: 4}, Work: Lognormal(50*ms, 1), Load: 0.8,
			Length: l(150 * sec), Queue: true, Boot: Always(2 * sec), Stop: Always(100 * ms),
			Script: []Step{{l(150*sec) / 3, func(s *Sim) { s.Crash(3) }}, {l(150*sec)/3 + sec, func(s *Sim) { s.Start(3) }}, {l(150*sec) / 2, func(s *Sim) { s.Restart(4) }}}}
	}},
	solo(1, 50), solo(1, 80), solo(4, 50), solo(4, 80), solo(20, 50), solo(20, 80),
	{"sparse", func(l lengthen) World {
		return World{About: "twelve regions with two machines each, unevenly asked",
			Regions: demand(Uniform(12, 2, 1), 2, 1, 0.5, 1, 2.2, 0.3, 1, 0.4, 1.8, 1, 0.5, 1), Slots: 4, Limits: limits(8), RTT: Line(12, 2*ms, 15*ms),
			Work: Exponential(100 * ms), Load: 0.65, Length: l(100 * sec)}
	}},
	{"wrong-rtt", func(l lengthen) World {
		return World{About: "round trips between regions are held for half to twice what they are",
			Regions: demand(Uniform(5, 8, 2), 1.2, 0.6, 0.6, 0.6, 0.8), Slots: 4, Limits: limits(8), RTT: Line(5, 2*ms, 25*ms), Believed: wrong(Line(5, 2*ms, 25*ms)),
			Work: Exponential(100 * ms), Load: 0.76, Length: l(50 * sec)}
	}},
	{"grey", func(l lengthen) World {
		t := l(100 * sec)
		return World{About: "two of 32 machines fall to a tenth of their speed and pass their checks",
			Regions: Uniform(2, 16, 4), Slots: 2, Limits: limits(6), Work: Exponential(100 * ms), Load: 0.65, Length: t,
			Script: []Step{{t / 5, func(s *Sim) { s.SetSpeed(3, 0.1); s.SetSpeed(20, 0.1) }}, {t * 4 / 5, func(s *Sim) { s.SetSpeed(3, 1); s.SetSpeed(20, 1) }}}}
	}},
	{"sick", func(l lengthen) World {
		t := l(150 * sec)
		return World{About: "one of 30 machines fails everything within a millisecond and passes its checks",
			Regions: Uniform(1, 30, 4), Slots: 2, Limits: limits(6), Work: Exponential(100 * ms), Load: 0.6, Length: t,
			Script: []Step{{t / 20, func(s *Sim) { s.SetSick(7, true) }}}}
	}},
	{"sick-pair", func(l lengthen) World {
		t := l(400 * sec)
		return World{About: "one of two machines answers 500 within a millisecond and passes its checks; edge and owner are one",
			Regions: Uniform(1, 2, 1), RTT: Line(1, 0, 0), OneProcess: true, Slots: 10, Limits: balance.Limits{Soft: 10, Hard: 20}, Work: Exponential(20 * ms), Load: 0.2, Length: t,
			Script: []Step{{t / 20, func(s *Sim) { s.SetSick(1, true) }}}}
	}},
	{"poison", func(l lengthen) World {
		return World{About: "half of all requests are answered 500 at once, wherever they go",
			Regions: Uniform(2, 12, 4), Slots: 2, Limits: limits(6), Work: Exponential(100 * ms), Load: 1.3, Poison: 0.5, Length: l(100 * sec)}
	}},
	{"sick-poison", func(l lengthen) World {
		t := l(150 * sec)
		return World{About: "a tenth of all requests is answered 500 wherever they go, and one of 24 machines fails everything",
			Regions: Uniform(2, 12, 4), Slots: 2, Limits: limits(6), Work: Exponential(100 * ms), Load: 0.65, Poison: 0.1, Length: t,
			Script: []Step{{t / 20, func(s *Sim) { s.SetSick(7, true) }}}}
	}},
	{"dark", func(l lengthen) World {
		t := l(150 * sec)
		return World{About: "one of 24 machines is cut off for half of the run; nobody says so",
			Regions: Uniform(2, 12, 4), Slots: 2, Limits: limits(6), Work: Exponential(100 * ms), Load: 0.65, Length: t,
			Script: []Step{{t / 4, func(s *Sim) { s.SetDark(5, true) }}, {t * 3 / 4, func(s *Sim) { s.SetDark(5, false) }}}}
	}},
	{"deploy", func(l lengthen) World {
		t := 150 * sec // rows are so late here that a shorter run would show nothing
		w := World{About: "a rolling restart of every machine, whose rows are seen 60 to 120 s late",
			Regions: Uniform(2, 10, 3), Limits: balance.Limits{Soft: 4, Hard: 6}, Work: Exponential(1 * sec), Load: 0.6, Length: t,
			Rows: 60 * sec, RowJitter: 60 * sec, Boot: Always(3 * sec), Stop: Always(500 * ms), Queue: true}
		for i := range 20 {
			w.Script = append(w.Script, Step{20*sec + time.Duration(i)*6*sec, func(s *Sim) { s.Restart(i) }})
		}
		return w
	}},
	{"crashes", func(l lengthen) World {
		t := l(150 * sec)
		w := World{About: "a machine crashes every so often and is started again",
			Regions: Uniform(2, 12, 4), Slots: 2, Limits: limits(6), Work: Exponential(100 * ms), Load: 0.65, Length: t, Boot: Always(t / 20), Rows: 500 * ms}
		for i := range 8 {
			at := t * time.Duration(2+i) / 11
			w.Script = append(w.Script, Step{at, func(s *Sim) { s.Crash(3 * i) }}, Step{at + t/40, func(s *Sim) { s.Start(3 * i) }})
		}
		return w
	}},
	{"huge", func(l lengthen) World {
		t := max(1500*ms, l(8*sec)) // it takes a second to fill
		return World{About: "10,000 machines in ten regions, three of them with clients",
			Regions: append(Uniform(3, 1000, 1), Uniform(7, 1000, 0)...), Slots: 2, Limits: limits(4), RTT: Line(10, 2*ms, 20*ms), PerOwner: 250,
			Reports: Reports{Every: sec, Delay: 500 * ms}, Work: Exponential(500 * ms), Load: 0.8 * 3 / 10, Length: t, Warm: max(sec, t/3)}
	}},
	nodes("nodes-20", 20, 100*ms, 10*sec, 1500*ms), nodes("nodes-20-2s", 20, 2*sec, 160*sec, 15*sec), nodes("nodes-100", 100, 100*ms, 10*sec, 1500*ms),
}

// every250 is the lateness of the nodes worlds: 250 ms, seen 250 ms later.
var every250 = Reports{Every: 250 * ms, Delay: 250 * ms}

// limits returns a soft limit of that many, and no hard one.
func limits(soft int) balance.Limits { return balance.Limits{Soft: soft} }

func demand(rs []Region, weights ...float64) []Region {
	for i := range rs {
		rs[i].Demand = weights[i]
	}
	return rs
}

// wrong makes round trips between regions wrong by up to a factor of two, the same way in each run.
func wrong(rtt [][]time.Duration) [][]time.Duration {
	r := newRng(1, forWorld, 0)
	for i := range rtt {
		for j := range rtt[i] {
			if i != j {
				rtt[i][j] = time.Duration(float64(rtt[i][j]) * (0.5 + 1.5*r.float64()))
			}
		}
	}
	return rtt
}

// late is a world whose reports and rows are d late.
func late(d time.Duration) world {
	return world{"late-" + d.String(), func(l lengthen) World {
		t := l(50 * sec)
		return World{About: "hard limits, 85 %, reports so late",
			Regions: Uniform(3, 12, 4), Slots: 4, Limits: balance.Limits{Soft: 7, Hard: 10}, Work: Exponential(100 * ms), Load: 0.85, Length: t, Warm: max(t/10, min(2*d, t/2)),
			Reports: Reports{Every: d / 2, Delay: d}}
	}}
}

// solo is a world of machines that serve one request at a time, like GPUs, with that many edges and
// that much load.
func solo(edges, percent int) world {
	return world{fmt.Sprintf("solo-%d-%d", edges, percent), func(l lengthen) World {
		return World{About: "machines that take one request at a time, four to an owner that grants their slots, and a waiting room",
			Regions: Uniform(1, 20, edges), RTT: Line(1, 10*ms, 0), Limits: balance.Limits{Soft: 1, Hard: 1}, Work: Lognormal(200*ms, 0.5),
			Load: float64(percent) / 100, Length: l(600 * sec), Queue: true, Grants: true, PerOwner: 4, Reports: every250}
	}}
}

// nodes is the world of many nodes at 90 %, after enough time for everybody to have heard of
// everybody and for counts to settle.
func nodes(name string, n int, work, length, warm time.Duration) world {
	return world{name, func(l lengthen) World {
		return World{About: "50 machines at 90 %, hard limits, that many edges",
			Regions: Uniform(1, 50, n), Limits: balance.Limits{Soft: 20, Hard: 25}, Work: Exponential(work), Load: 0.9, Reports: every250,
			Length: max(2*warm, l(length)), Warm: warm}
	}}
}
