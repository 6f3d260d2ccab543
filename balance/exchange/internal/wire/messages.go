package wire

import (
	"fmt"
	"slices"

	"github.com/ebbkit/ebb/balance"
)

// Header begins every message.
type Header struct {
	Cluster     string
	Kind        string // "row", "load", "ack", "ask", "snap": as in the subject
	Incarnation uint64 // of the writer
	Seq         uint64 // number among the writer's of its kind; of a snapshot: the rows' number
}

// Row is a machine as its owner last wrote it, or its removal. It does not contain the owner, which
// is the node that sent the message: so no node can write the row of another's machine.
type Row struct {
	Index   uint32 // identifies the machine in load reports, within one incarnation of the owner
	Removed bool
	Machine balance.Machine // Owner is empty
	Err     error           // why the row cannot be read; App and ID are set if they could be
}

// Rows is a message of changed rows. Seq grows by one from message to message.
type Rows struct {
	Header
	Rows []Row
}

// Report is the load of one machine.
type Report struct {
	Index   uint32
	Load    balance.Load
	Granted int
	Idle    int

	// Reserved for machines that report their load in units of their own. This release writes
	// zeros.
	Cost     uint32 // in the app's units
	Pressure uint8  // 255: full
	Queue    uint16 // waiting at the machine
}

// Load is a heartbeat. It says who the node is, how far its other messages have come, and the load
// of its machines.
type Load struct {
	Header
	Hop     string // host:port of the node's hop
	Probe   string // host:port where it answers probes
	Edge    bool   // it sends requests to other nodes' machines
	Worker  bool   // it hosts machines
	Leaving bool   // it shuts down; this is its last message
	Rows    uint64 // sequence of its last message of rows
	Acks    uint64 // sequence of its last acknowledgement
	Reports []Report
}

// Ack says how far the writer has applied another node's rows; it picks by them.
type Ack struct {
	Node        balance.NodeID
	Incarnation uint64
	Seq         uint64 // of the last message of rows that was applied
}

// Acks is a message of acknowledgements. These only grow, so their order does not matter.
type Acks struct {
	Header
	Acks []Ack
}

// Demand counts what a node has of one app's requests.
type Demand struct {
	App      balance.AppID
	Home     string // region in which the demand counts
	InFlight int
	Parked   int
}

// Asks is a message of the writer's whole demand: an app that is not in it has none. If it does not
// fit one message, it comes in parts with consecutive sequences.
type Asks struct {
	Header
	Part, Parts int // Parts 0 means 1
	Demand      []Demand
}

// Ask requests a snapshot of another node's rows, from Part on. Seq and Incarnation are those of
// the rows that the asker has complete; if nothing has changed since, the answer is a snapshot
// without parts.
type Ask struct {
	Header
	Node balance.NodeID // who asks
	Part int
	Cut  uint64 // the snapshot whose part is wanted; 0 for a new one
	// Older is an incarnation of the asked node that is later than the one it uses.
	Older uint64
}

// Snapshot is a part of an owner's rows as they were when it had sent the message of rows with
// Header.Seq. Parts is 0 if the asker has these rows already.
type Snapshot struct {
	Header
	Part, Parts int
	Rows        []Row
}

// Fields of the header, and the first of the bodies.
const (
	fieldCluster = iota + 1
	fieldKind
	fieldIncarnation
	fieldSeq
	fieldBody = 8 // 5 to 7 are reserved for the header
)

func (h *Header) encode() *encoder {
	e := &encoder{[]byte{Version}}
	e.text(fieldCluster, h.Cluster)
	e.text(fieldKind, h.Kind)
	e.uint(fieldIncarnation, h.Incarnation)
	e.uint(fieldSeq, h.Seq)
	return e
}

// begin checks what every message has and returns a decoder of its fields.
func begin(b []byte) (*decoder, error) {
	switch {
	case len(b) == 0:
		return nil, fmt.Errorf("exchange: message: empty")
	case len(b) > MaxMessage:
		return nil, fmt.Errorf("exchange: message of %d bytes: at most %d", len(b), MaxMessage)
	case b[0] != Version:
		return nil, fmt.Errorf(
			"%w: message of version %d, this release reads %d", ErrVersion, b[0], Version,
		)
	}
	return &decoder{b: b[1:]}, nil
}

// decode reads a message: body is called for each field that is not the header's.
func decode(b []byte, h *Header, kind string, body func(d *decoder)) error {
	d, err := begin(b)
	if err != nil {
		return err
	}
	for d.next() {
		switch d.field {
		case fieldCluster:
			d.text(&h.Cluster, maxName)
		case fieldKind:
			d.text(&h.Kind, maxName)
		case fieldIncarnation:
			d.uint(&h.Incarnation)
		case fieldSeq:
			d.uint(&h.Seq)
		default:
			body(d)
		}
	}
	if d.err == nil && h.Kind != kind {
		d.fail("of kind %q: want %q", h.Kind, kind)
	}
	return d.err
}

// nested reads a message inside another.
func nested(d *decoder, field func(*decoder)) error {
	if !d.is(typeBytes) {
		return d.err
	}
	in := &decoder{b: d.bytes}
	for in.next() {
		field(in)
	}
	return in.err
}

// inner is nested for parts that the message cannot do without.
func inner(d *decoder, field func(*decoder)) {
	if err := nested(d, field); err != nil && d.err == nil {
		d.err = err
	}
}

// Fields of a row.
const (
	rowIndex = iota + 1
	rowApp
	rowID
	rowRemoved
	rowRegion
	rowAddr
	rowRevision
	rowSoft
	rowHard
	rowState
	rowHealth
	rowRecent
	rowDoubtful
	rowCordon
	rowCordonGen
	rowEpoch
	rowFault
)

// EncodeRow returns a row as encoded in messages and snapshots.
func EncodeRow(r Row) []byte {
	e, m := &encoder{}, r.Machine
	e.uint(rowIndex, uint64(r.Index))
	e.text(rowApp, string(m.App))
	e.text(rowID, string(m.ID))
	if r.Removed {
		e.bool(rowRemoved, true)
		return e.b
	}
	e.text(rowRegion, m.Region)
	e.text(rowAddr, m.Addr)
	e.text(rowRevision, m.Revision)
	e.uint(rowSoft, uint64(m.Limits.Soft))
	e.uint(rowHard, uint64(m.Limits.Hard))
	e.uint(rowState, uint64(m.State))
	e.uint(rowHealth, uint64(m.Health))
	e.bool(rowRecent, m.Recent)
	e.bool(rowDoubtful, m.Doubtful)
	e.uint(rowCordon, uint64(m.Cordon))
	e.uint(rowCordonGen, m.CordonGen)
	e.uint(rowEpoch, m.Epoch)
	e.text(rowFault, cut(m.Fault))
	return e.b
}

// decodeRow reads a row. A bad one is returned with Err set; the others of the message are not
// affected.
func decodeRow(d *decoder) (r Row) {
	m := &r.Machine
	r.Err = nested(d, func(d *decoder) {
		switch d.field {
		case rowIndex:
			small(d, &r.Index)
		case rowApp:
			named(d, &m.App)
		case rowID:
			named(d, &m.ID)
		case rowRemoved:
			d.bool(&r.Removed)
		case rowRegion:
			d.text(&m.Region, maxName)
		case rowAddr:
			d.text(&m.Addr, maxName)
		case rowRevision:
			d.text(&m.Revision, maxName)
		case rowSoft:
			d.int(&m.Limits.Soft)
		case rowHard:
			d.int(&m.Limits.Hard)
		case rowState:
			enum(d, &m.State)
		case rowHealth:
			enum(d, &m.Health)
		case rowRecent:
			d.bool(&m.Recent)
		case rowDoubtful:
			d.bool(&m.Doubtful)
		case rowCordon:
			enum(d, &m.Cordon)
		case rowCordonGen:
			d.uint(&m.CordonGen)
		case rowEpoch:
			d.uint(&m.Epoch)
		case rowFault:
			d.text(&m.Fault, maxFault)
		}
	})
	if r.Err == nil && (m.App == "" || m.ID == "") {
		r.Err = fmt.Errorf("exchange: row of machine %q of app %q: both have to be set", m.ID, m.App)
	}
	return r
}

const fieldRow = fieldBody

// EncodeRows returns a message of encoded rows.
func EncodeRows(h Header, rows [][]byte) []byte {
	h.Kind = "row"
	e := h.encode()
	for _, r := range rows {
		e.raw(fieldRow, r)
	}
	return e.b
}

// DecodeRows reads a message of rows.
func DecodeRows(b []byte) (m Rows, err error) {
	err = decode(b, &m.Header, "row", func(d *decoder) {
		if d.field == fieldRow && d.is(typeBytes) {
			m.Rows = append(m.Rows, decodeRow(d))
		}
	})
	return m, err
}

// Fields of a heartbeat.
const (
	loadHop = iota + fieldBody
	loadProbe
	loadEdge
	loadWorker
	loadLeaving
	loadRows
	loadAcks
	loadReport
)

// Fields of a report.
const (
	reportIndex = iota + 1
	reportInFlight
	reportSeq
	reportState
	reportCordon
	reportCordonGen
	reportEpoch
	reportSoft
	reportHard
	reportGranted
	reportIdle
	reportCost
	reportPressure
	reportQueue
)

// Encode returns the heartbeat as a message.
func (m *Load) Encode() []byte {
	m.Kind = "load"
	e := m.Header.encode()
	e.text(loadHop, m.Hop)
	e.text(loadProbe, m.Probe)
	e.bool(loadEdge, m.Edge)
	e.bool(loadWorker, m.Worker)
	e.bool(loadLeaving, m.Leaving)
	e.uint(loadRows, m.Rows)
	e.uint(loadAcks, m.Acks)
	e.b = slices.Grow(e.b, 24*len(m.Reports))
	for i := range m.Reports {
		e.message(loadReport, m.Reports[i].encode)
	}
	return e.b
}

func (r *Report) encode(e *encoder) {
	e.uint(reportIndex, uint64(r.Index))
	e.uint(reportInFlight, uint64(r.Load.InFlight))
	e.uint(reportSeq, r.Load.Seq)
	e.uint(reportState, uint64(r.Load.State))
	e.uint(reportCordon, uint64(r.Load.Cordon))
	e.uint(reportCordonGen, r.Load.CordonGen)
	e.uint(reportEpoch, r.Load.Epoch)
	e.uint(reportSoft, uint64(r.Load.Limits.Soft))
	e.uint(reportHard, uint64(r.Load.Limits.Hard))
	e.uint(reportGranted, uint64(r.Granted))
	e.uint(reportIdle, uint64(r.Idle))
	e.uint(reportCost, uint64(r.Cost))
	e.uint(reportPressure, uint64(r.Pressure))
	e.uint(reportQueue, uint64(r.Queue))
}

// decodeReport reads a report. It is on the hot path, so it makes no closures.
func decodeReport(d *decoder) (r Report) {
	if !d.is(typeBytes) {
		return r
	}
	in := decoder{b: d.bytes}
	for in.next() {
		r.field(&in)
	}
	if d.err == nil {
		d.err = in.err
	}
	return r
}

func (r *Report) field(d *decoder) {
	switch d.field {
	case reportIndex:
		small(d, &r.Index)
	case reportInFlight:
		d.int(&r.Load.InFlight)
	case reportSeq:
		d.uint(&r.Load.Seq)
	case reportState:
		enum(d, &r.Load.State)
	case reportCordon:
		enum(d, &r.Load.Cordon)
	case reportCordonGen:
		d.uint(&r.Load.CordonGen)
	case reportEpoch:
		d.uint(&r.Load.Epoch)
	case reportSoft:
		d.int(&r.Load.Limits.Soft)
	case reportHard:
		d.int(&r.Load.Limits.Hard)
	case reportGranted:
		d.int(&r.Granted)
	case reportIdle:
		d.int(&r.Idle)
	case reportCost:
		small(d, &r.Cost)
	case reportPressure:
		small(d, &r.Pressure)
	case reportQueue:
		small(d, &r.Queue)
	}
}

// DecodeLoad reads a heartbeat.
func DecodeLoad(b []byte) (m Load, err error) {
	err = decode(b, &m.Header, "load", func(d *decoder) {
		switch d.field {
		case loadHop:
			d.text(&m.Hop, maxName)
		case loadProbe:
			d.text(&m.Probe, maxName)
		case loadEdge:
			d.bool(&m.Edge)
		case loadWorker:
			d.bool(&m.Worker)
		case loadLeaving:
			d.bool(&m.Leaving)
		case loadRows:
			d.uint(&m.Rows)
		case loadAcks:
			d.uint(&m.Acks)
		case loadReport:
			if m.Reports == nil { // 16 bytes or so each; bounded by the input
				m.Reports = make([]Report, 0, 1+len(d.b)/16)
			}
			m.Reports = append(m.Reports, decodeReport(d))
		}
	})
	return m, err
}

// Fields of acknowledgements and demand.
const (
	fieldAck = fieldBody

	ackNode        = 1
	ackIncarnation = 2
	ackSeq         = 3

	fieldDemand = fieldBody
	askPart     = fieldBody + 1
	askParts    = fieldBody + 2

	demandApp      = 1
	demandHome     = 2
	demandInFlight = 3
	demandParked   = 4
)

// Encode returns the acknowledgements as a message.
func (m *Acks) Encode() []byte {
	m.Kind = "ack"
	e := m.Header.encode()
	for _, a := range m.Acks {
		e.message(fieldAck, func(e *encoder) {
			e.text(ackNode, string(a.Node))
			e.uint(ackIncarnation, a.Incarnation)
			e.uint(ackSeq, a.Seq)
		})
	}
	return e.b
}

// DecodeAcks reads acknowledgements.
func DecodeAcks(b []byte) (m Acks, err error) {
	err = decode(b, &m.Header, "ack", func(d *decoder) {
		if d.field != fieldAck {
			return
		}
		var a Ack
		inner(d, func(d *decoder) {
			switch d.field {
			case ackNode:
				named(d, &a.Node)
			case ackIncarnation:
				d.uint(&a.Incarnation)
			case ackSeq:
				d.uint(&a.Seq)
			}
		})
		m.Acks = append(m.Acks, a)
	})
	return m, err
}

// Encode returns the demand as a message.
func (m *Asks) Encode() []byte {
	m.Kind = "ask"
	e := m.Header.encode()
	e.uint(askPart, uint64(m.Part))
	e.uint(askParts, uint64(m.Parts))
	for _, x := range m.Demand {
		e.message(fieldDemand, func(e *encoder) {
			e.text(demandApp, string(x.App))
			e.text(demandHome, x.Home)
			e.uint(demandInFlight, uint64(x.InFlight))
			e.uint(demandParked, uint64(x.Parked))
		})
	}
	return e.b
}

// DecodeAsks reads demand.
func DecodeAsks(b []byte) (m Asks, err error) {
	err = decode(b, &m.Header, "ask", func(d *decoder) {
		switch d.field {
		case askPart:
			d.int(&m.Part)
		case askParts:
			d.int(&m.Parts)
		case fieldDemand:
			m.Demand = append(m.Demand, decodeDemand(d))
		}
	})
	return m, err
}

func decodeDemand(d *decoder) (x Demand) {
	inner(d, func(d *decoder) {
		switch d.field {
		case demandApp:
			named(d, &x.App)
		case demandHome:
			d.text(&x.Home, maxName)
		case demandInFlight:
			d.int(&x.InFlight)
		case demandParked:
			d.int(&x.Parked)
		}
	})
	return x
}

// Fields of a request for a snapshot and of its answer.
const (
	questionNode  = fieldBody
	questionPart  = fieldBody + 1
	questionCut   = fieldBody + 2
	questionOlder = fieldBody + 3

	snapRow   = fieldRow
	snapPart  = fieldBody + 1
	snapParts = fieldBody + 2
)

// Encode returns the request as a message.
func (m *Ask) Encode() []byte {
	m.Kind = "snap"
	e := m.Header.encode()
	e.text(questionNode, string(m.Node))
	e.uint(questionPart, uint64(m.Part))
	e.uint(questionCut, m.Cut)
	e.uint(questionOlder, m.Older)
	return e.b
}

// DecodeAsk reads a request for a snapshot.
func DecodeAsk(b []byte) (m Ask, err error) {
	err = decode(b, &m.Header, "snap", func(d *decoder) {
		switch d.field {
		case questionNode:
			named(d, &m.Node)
		case questionPart:
			d.int(&m.Part)
		case questionCut:
			d.uint(&m.Cut)
		case questionOlder:
			d.uint(&m.Older)
		}
	})
	return m, err
}

// EncodeSnapshot returns a part of a snapshot of encoded rows.
func EncodeSnapshot(h Header, part, parts int, rows [][]byte) []byte {
	h.Kind = "snap"
	e := h.encode()
	e.uint(snapPart, uint64(part))
	e.uint(snapParts, uint64(parts))
	for _, r := range rows {
		e.raw(snapRow, r)
	}
	return e.b
}

// DecodeSnapshot reads a part of a snapshot.
func DecodeSnapshot(b []byte) (m Snapshot, err error) {
	err = decode(b, &m.Header, "snap", func(d *decoder) {
		switch d.field {
		case snapRow:
			if d.is(typeBytes) {
				m.Rows = append(m.Rows, decodeRow(d))
			}
		case snapPart:
			d.int(&m.Part)
		case snapParts:
			d.int(&m.Parts)
		}
	})
	return m, err
}
