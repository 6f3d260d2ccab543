package balance

// Outcome is how a request ended for the machine that it was sent to.
type Outcome uint8

// The outcomes.
const (
	Done     Outcome = iota // answered
	Bounced                 // refused by the owner; says nothing about the machine's health
	Errored                 // the machine or the way to it failed
	Canceled                // the client left; says nothing about the machine
)

// Reservation is one request of this node counted in at one machine. It is a handle: pass it by pointer and release it
// once; copying it is misuse.
type Reservation struct {
	b   *Balancer
	row *row
}

// Machine returns the row that was picked. It is valid while the reservation is.
func (r *Reservation) Machine() *Machine { return &r.row.Machine }

// Gate returns the gate of the machine when this process owns it, else nil.
func (r *Reservation) Gate() *Gate { return r.row.gate }

// Busy reports whether the machine, this request included, is above its soft limit: the signal to start another.
func (r *Reservation) Busy() bool {
	var c Candidate
	r.row.look(&c, r.b.fleet.tick.Load())
	return c.Limits.Soft > 0 && c.Load > float64(c.Limits.Soft)
}

// Observe takes in what the owner said in a reply or a bounce. Call it while the reservation is held; it is O(1) and does
// not allocate. What is older than what is known is dropped.
func (r *Reservation) Observe(l Load) {
	if r.row.cell.observe(l, r.b.fleet.tick.Load()) && (l.Limits.Hard == 0 || l.InFlight < l.Limits.Hard) {
		r.b.signal(r.row.App)
	}
}

// penalty bounds, in requests: one failure weighs as one request, and each doubles the last up to the cap. Fast failures
// must never make a machine look idle; a sick machine took 14 % of requests without a penalty and 0.02 % with one.
const penaltyCap = 1 << 10

// Release counts the request out. The handle is zeroed; a second Release panics.
func (r *Reservation) Release(o Outcome) {
	if r.row == nil {
		panic("balance: Reservation released twice")
	}
	b, m := r.b, r.row
	*r = Reservation{}
	if o == Errored {
		m.cell.penalty.Store(min(2*m.cell.penalty.Load()+1, penaltyCap))
	} else if o == Done && m.cell.penalty.Load() > 0 {
		m.cell.penalty.Store(0)
	}
	m.cell.own.Add(-1)
	b.signal(m.App)
}

// nothing counts why no machine is usable.
func (v *View) nothing(r *Request) error {
	e := &NoMachineError{App: r.App}
	for _, d := range v.order {
		for _, m := range d.rows.rows {
			e.Seen++
			switch {
			case r.tried(m.ID):
				e.Excluded++
			case m.State == Starting:
				e.Starting++
			case m.State != Started:
				e.Stopped++
			case m.Cordon == CordonHard:
				e.Cordoned++
			default:
				e.Full++
				e.After = fullTicks * tickEvery
			}
		}
	}
	return e
}
