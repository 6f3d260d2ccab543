package core

import (
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/exchange/internal/wire"
)

// Publisher numbers the rows of the machines that a node owns. It is not safe for concurrent use.
type Publisher struct {
	cluster     string
	incarnation uint64
	most        int // bytes of rows in a message, at most
	seq         uint64
	rows        map[balance.MachineKey]*ownRow
	indices     uint32
	cuts        []*cut // the newest last
}

// ownRow is a row as it was last sent.
type ownRow struct {
	index uint32
	wire  []byte
	gen   uint64 // generation of its cordon, and the message that carried it
	told  uint64
}

// cut is a snapshot that is being fetched.
type cut struct {
	seq   uint64
	parts [][]byte
}

// cutsKept is how many snapshots in several parts are kept for the nodes that fetch them: rows may
// change between two parts. A snapshot in one part is made anew when rows have changed.
const cutsKept = 4

// NewPublisher returns a publisher whose messages are not much larger than most bytes.
func NewPublisher(cluster string, incarnation uint64, most int) *Publisher {
	return &Publisher{
		cluster: cluster, incarnation: incarnation, most: most, rows: map[balance.MachineKey]*ownRow{},
	}
}

// Renumber begins a new incarnation. Others have to request all rows: message 1 is never sent, so
// that they see a gap, which number 0 would not show.
func (p *Publisher) Renumber(incarnation uint64) {
	p.incarnation, p.seq, p.cuts = incarnation, 1, nil
	for _, r := range p.rows {
		r.told = 0
	}
}

// Limit bounds the size of messages from now on.
func (p *Publisher) Limit(most int) { p.most, p.cuts = most, nil }

// Incarnation returns the current incarnation.
func (p *Publisher) Incarnation() uint64 { return p.incarnation }

// Seq returns the number of the last message of rows.
func (p *Publisher) Seq() uint64 { return p.seq }

// Of returns the machines of an app whose rows have been sent.
func (p *Publisher) Of(app balance.AppID) (keys []balance.MachineKey) {
	for _, k := range sortedKeys(p.rows) {
		if k.App == app {
			keys = append(keys, k)
		}
	}
	return keys
}

// Index returns the number that identifies a machine in reports.
func (p *Publisher) Index(k balance.MachineKey) (uint32, bool) {
	r, ok := p.rows[k]
	if !ok {
		return 0, false
	}
	return r.index, true
}

// header returns the header of the last message of rows, and of a snapshot that is cut now.
func (p *Publisher) header() wire.Header {
	return wire.Header{Cluster: p.cluster, Incarnation: p.incarnation, Seq: p.seq}
}

// Put records changed rows and removed machines and returns the messages to send.
func (p *Publisher) Put(
	changed []balance.Machine, removed []balance.MachineKey,
) (messages [][]byte) {
	var rows [][]byte
	size := 0
	flush := func() {
		if len(rows) > 0 {
			p.seq++
			messages = append(messages, wire.EncodeRows(p.header(), rows))
			rows, size = nil, 0
		}
	}
	add := func(b []byte) {
		if size+len(b) > p.most {
			flush()
		}
		rows, size = append(rows, b), size+len(b)+8
	}
	for _, m := range changed {
		r := p.rows[m.Key()]
		if r == nil {
			p.indices++
			r = &ownRow{index: p.indices}
			p.rows[m.Key()] = r
		}
		r.wire = wire.EncodeRow(wire.Row{Index: r.index, Machine: m})
		add(r.wire)
		if m.CordonGen != r.gen || r.told == 0 {
			r.gen, r.told = m.CordonGen, p.seq+1
		}
	}
	for _, k := range removed {
		if r := p.rows[k]; r != nil {
			delete(p.rows, k)
			add(
				wire.EncodeRow(
					wire.Row{Index: r.index, Removed: true, Machine: balance.Machine{App: k.App, ID: k.ID}},
				),
			)
		}
	}
	flush()
	return messages
}

// Told returns the message that carried a generation of a machine's cordon, or false if none has
// yet.
func (p *Publisher) Told(k balance.MachineKey, gen uint64) (seq uint64, ok bool) {
	r := p.rows[k]
	if r == nil || r.gen < gen {
		return 0, false
	}
	return r.told, true
}

// Answer returns the requested part of a snapshot.
func (p *Publisher) Answer(a *wire.Ask) []byte {
	h := p.header()
	if a.Part == 0 && a.Incarnation == p.incarnation && a.Seq == p.seq {
		return wire.EncodeSnapshot(h, 0, 0, nil)
	}
	if a.Part > 0 {
		for _, c := range p.cuts {
			if c.seq == a.Cut && a.Part < len(c.parts) {
				return c.parts[a.Part]
			}
		} // the cut is too old: start again
	}
	return p.cut().parts[0]
}

// cut returns a snapshot of the current rows.
func (p *Publisher) cut() *cut {
	if n := len(p.cuts); n > 0 && p.cuts[n-1].seq == p.seq {
		return p.cuts[n-1]
	}
	var groups [][][]byte
	size := p.most + 1
	for _, k := range sortedKeys(p.rows) {
		b := p.rows[k].wire
		if size+len(b) > p.most {
			groups, size = append(groups, nil), 0
		}
		last := len(groups) - 1
		groups[last], size = append(groups[last], b), size+len(b)+8
	}
	if groups == nil {
		groups = [][][]byte{nil}
	}
	c := &cut{seq: p.seq}
	h := p.header()
	for i, g := range groups {
		c.parts = append(c.parts, wire.EncodeSnapshot(h, i, len(groups), g))
	}
	if n := len(p.cuts); n > 0 && len(p.cuts[n-1].parts) == 1 {
		p.cuts = p.cuts[:n-1]
	}
	p.cuts = append(p.cuts, c)
	p.cuts = p.cuts[max(0, len(p.cuts)-cutsKept):]
	return c
}
