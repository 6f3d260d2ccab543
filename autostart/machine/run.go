package machine

import (
	"context"
	"errors"
	"net"
	"syscall"

	"github.com/ebbkit/ebb/autostart/machine/internal/health"
	"github.com/ebbkit/ebb/balance"
)

// run is one start of a machine and what follows, until it ends or the machine is started again: a
// boot, and then an attendance.
type run struct {
	s       *Starter
	h       *hosted
	m       balance.Machine // as of the start; Addr is set when it is known
	gate    *balance.Gate
	token   uint64 // of the start
	ctx     context.Context
	end     context.CancelCauseFunc // with an ended as cause when the machine has ended
	suspect chan struct{}           // holds a token when the machine must be checked now
	probe   *prober                 // set by the boot
	adopted bool                    // an earlier process has started it
}

// ended is the cause with which a run ends when its machine does.
type ended struct{ exit Exit }

func (e *ended) Error() string { return e.exit.Reason }

// errAgain ends a run whose machine is started again.
var errAgain = errors.New("started again")

// exit returns how the machine has ended. ok is false when the run goes on, or is over for another
// reason.
func (r *run) exit() (e Exit, ok bool) {
	end, ok := errors.AsType[*ended](context.Cause(r.ctx))
	if ok {
		e = end.exit
	}
	return e, ok
}

// edit changes the machine's row as long as it is about this start.
func (r *run) edit(change func(*balance.Machine)) {
	// An error means that the machine has been removed: then there is nothing to say about it.
	_ = r.s.fleet.Edit(r.m.App, r.m.ID, func(m *balance.Machine) {
		if m.Epoch == r.m.Epoch {
			change(m)
		}
	})
}

// fail ends a start that has failed. The row gets the fault before the state.
func (r *run) fail(fault string) {
	m := r.m
	m.Fault = fault
	r.edit(func(row *balance.Machine) { row.Fault, row.Doubtful = fault, false })
	if r.gate.Fail(r.token) {
		r.s.config.Trace.failed(m)
	}
}

// condition says what the result of a look means. A check that is a func may have found that
// something else does not listen, such as a database: a connection refused at another address does
// not mean that the machine does not listen.
func (r *run) condition(err error) health.Condition {
	if err == nil {
		return health.ConditionGood
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return health.ConditionFailing
	}
	if r.probe.check.Func != nil {
		if dial, ok := errors.AsType[*net.OpError](err); ok && dial.Addr != nil &&
			dial.Addr.String() != r.m.Addr {
			return health.ConditionFailing
		}
	}
	return health.ConditionRefused
}

// lookNow has the machine checked without delay.
func (r *run) lookNow() {
	select {
	case r.suspect <- struct{}{}:
	default: // it is about to be looked at
	}
}
