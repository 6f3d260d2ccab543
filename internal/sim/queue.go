package sim

// kind is the type of an event; a and b are its operands.
type kind uint32

const (
	evArrive   kind = iota // a request arrives at edge a; b is the generation of its arrivals
	evReach                // request a reaches its machine
	evServe                // machine a may have finished something
	evReply                // the answer to request a reaches its edge
	evDeadline             // request a, if it still is generation b, has waited long enough
	evTick                 // edge a does its periodic work
	evReport               // owner a reports
	evReported             // report a reaches edge b
	evRow                  // row a reaches edge b
	evStep                 // step a of the world's script
	evRound                // round a of the world comes
	evBurst                // edge a enters or leaves a burst
	evBooted               // the start of machine a with token b ends
	evStopped              // the stop of machine a with token b ends
	evGrant                // note a, a grant, reaches its edge
	evAsk                  // note a, how many requests wait, reaches its owner
	evGranter              // owner a's granter does its periodic work
	evProbe                // probe a reaches its machine
	evProbed               // probe a is back at its edge
)

// event is something that happens at a time. Of two at the same time, the one that was pushed first
// comes first: this makes a run repeatable.
type event struct {
	at   int64 // nanoseconds since the start of the run
	seq  uint32
	kind kind
	a, b int32
}

func (e *event) before(f *event) bool {
	return e.at < f.at || e.at == f.at && e.seq < f.seq
}

// queue is a heap of events with four children per node, which halves its height and with it the
// cache misses.
type queue struct {
	heap []event
	seq  uint32
}

func (q *queue) push(at int64, k kind, a, b int32) {
	q.seq++
	e := event{at, q.seq, k, a, b}
	q.heap = append(q.heap, e)
	i := len(q.heap) - 1
	for i > 0 {
		up := (i - 1) / 4
		if !e.before(&q.heap[up]) {
			break
		}
		q.heap[i] = q.heap[up]
		i = up
	}
	q.heap[i] = e
}

func (q *queue) pop() event {
	top := q.heap[0]
	last := len(q.heap) - 1
	e := q.heap[last]
	q.heap = q.heap[:last]
	if last == 0 {
		return top
	}
	i := 0
	for {
		child := 4*i + 1
		if child >= last {
			break
		}
		least := child
		for c := child + 1; c < min(child+4, last); c++ {
			if q.heap[c].before(&q.heap[least]) {
				least = c
			}
		}
		if !q.heap[least].before(&e) {
			break
		}
		q.heap[i] = q.heap[least]
		i = least
	}
	q.heap[i] = e
	return top
}
