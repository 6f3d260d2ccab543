package core

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/exchange/internal/wire"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var t0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

const sec, ms = time.Second, time.Millisecond

// table is an owner's machines with their epochs, which stand for the whole row.
type table map[balance.MachineKey]uint64

// owner is a node that publishes, with the table as it was after each message.
type owner struct {
	p       *Publisher
	now     table
	history map[uint64]table // by incarnation<<32 | message
	loadSeq uint64
}

func newOwner(incarnation uint64, most int) *owner {
	o := &owner{p: NewPublisher("c", incarnation, most), now: table{}, history: map[uint64]table{}}
	o.note()
	return o
}

func (o *owner) note() { o.history[o.p.Incarnation()<<32|o.p.Seq()] = maps.Clone(o.now) }

// put changes rows one message at a time, so that the history has each.
func (o *owner) put(id string, epoch uint64) [][]byte {
	m := balance.Machine{App: "web", ID: balance.MachineID(id), Region: "nrt", Epoch: epoch}
	o.now[m.Key()] = epoch
	defer o.note()
	return o.p.Put([]balance.Machine{m}, nil)
}

func (o *owner) remove(id string) [][]byte {
	k := balance.MachineKey{App: "web", ID: balance.MachineID(id)}
	delete(o.now, k)
	defer o.note()
	return o.p.Put(nil, []balance.MachineKey{k})
}

func (o *owner) beat() *wire.Load {
	o.loadSeq++
	return &wire.Load{
		Header: wire.Header{Incarnation: o.p.Incarnation(), Seq: o.loadSeq}, Rows: o.p.Seq(),
	}
}

// fataler is a *testing.T or a *rapid.T.
type fataler interface{ Fatal(...any) }

// reader applies the actions of a follower.
type reader struct {
	f     *Follower
	rows  table
	asked []Ask
	log   []string
}

func newReader() *reader { return &reader{f: NewFollower("me", 1, 5*sec), rows: table{}} }

func (r *reader) act() {
	for _, a := range r.f.Take() {
		switch a := a.(type) {
		case Apply:
			for _, row := range a.Rows {
				if row.Removed {
					delete(r.rows, row.Machine.Key())
				} else {
					r.rows[row.Machine.Key()] = row.Machine.Epoch
				}
			}
			r.log = append(r.log, fmt.Sprintf("apply %d", len(a.Rows)))
		case Gone:
			r.log = append(r.log, fmt.Sprintf("gone %s", a.Node))
		case Ask:
			r.asked = append(r.asked, a)
			switch {
			case a.Message.Older > 0:
				r.log = append(r.log, fmt.Sprintf("tell %s of %d", a.Node, a.Message.Older))
			default:
				r.log = append(r.log, fmt.Sprintf("ask %s", a.Node))
			}
		case Outdated:
			r.log = append(r.log, fmt.Sprintf("outdated %d", a.Incarnation))
		}
	}
}

// said returns what happened since the last time.
func (r *reader) said() string {
	r.act()
	s := strings.Join(r.log, ", ")
	r.log = nil
	return s
}

var from = Sender{"w", "nrt"}

// deliver gives the reader a message of rows.
func (r *reader) deliver(t fataler, now time.Time, b []byte) {
	m, err := wire.DecodeRows(b)
	if err != nil {
		t.Fatal(err)
	}
	r.f.Rows(now, from, &m)
	r.act()
}

func (r *reader) answer(t fataler, now time.Time, o *owner, a Ask) {
	r.answered(t, now, a.Node, o.p.Answer(&a.Message))
}

func (r *reader) answered(t fataler, now time.Time, node balance.NodeID, b []byte) {
	m, err := wire.DecodeSnapshot(b)
	if err != nil {
		t.Fatal(err)
	}
	r.f.Answer(now, node, &m)
	r.act()
}

// However messages are lost, repeated, reordered and overtaken by snapshots: what was applied is
// the owner's table as it was at some time, and never an earlier one than before. When messages
// arrive again it is the current one.
func TestRowsAreTheOwnersAtSomeTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o, r := newOwner(5, rapid.SampledFrom([]int{20, 60, 10000}).Draw(t, "most")), newReader()
		now := t0
		var flying [][]byte // sent, and delivered any number of times in any order
		var beats []*wire.Load
		var answers [][]byte // on their way back
		ids := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f"})
		at := uint64(0) // what the reader had applied
		advance := func(d time.Duration) { now = now.Add(d); r.f.Tick(now); r.act() }
		answer := func(a Ask) {
			if a.Message.Older > 0 {
				if a.Message.Older > o.p.Incarnation() {
					o.p.Renumber(a.Message.Older + 1)
					o.note()
				}
				return
			}
			r.answer(t, now, o, a)
		}
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				flying = append(flying, o.put(ids.Draw(t, "id"), rapid.Uint64Range(1, 9).Draw(t, "epoch"))...)
			},
			"remove": func(t *rapid.T) { flying = append(flying, o.remove(ids.Draw(t, "id"))...) },
			"beat":   func(t *rapid.T) { beats = append(beats, o.beat()) },
			"rows": func(t *rapid.T) {
				if len(flying) > 0 {
					r.deliver(t, now, rapid.SampledFrom(flying).Draw(t, "message"))
				}
			},
			"newest rows": func(t *rapid.T) {
				if len(flying) > 0 {
					r.deliver(t, now, flying[len(flying)-1])
				}
			},
			"heartbeat": func(t *rapid.T) {
				if len(beats) > 0 {
					r.f.Load(now, from, rapid.SampledFrom(beats).Draw(t, "beat"))
					r.act()
				}
			},
			"answer": func(t *rapid.T) {
				if len(r.asked) > 0 {
					i := rapid.IntRange(0, len(r.asked)-1).Draw(t, "question")
					a := r.asked[i]
					r.asked = slices.Delete(r.asked, i, i+1)
					answer(a)
				}
			},
			"serve": func(t *rapid.T) {
				if len(r.asked) > 0 && r.asked[0].Message.Older == 0 {
					answers = append(answers, o.p.Answer(&r.asked[0].Message))
					r.asked = r.asked[1:]
				}
			},
			"answer arrives": func(t *rapid.T) {
				if len(answers) > 0 {
					b := answers[0]
					answers = answers[1:]
					r.answered(t, now, "w", b)
				}
			},
			"fail": func(t *rapid.T) {
				if len(r.asked) > 0 {
					a := r.asked[0]
					r.asked = r.asked[1:]
					if a.Message.Older == 0 {
						r.f.Failed(now, a.Node)
						r.act()
					}
				}
			},
			"later":     func(t *rapid.T) { advance(50 * ms) },
			"reconnect": func(t *rapid.T) { r.f.Reconnected(now); r.act() },
			"app removed here": func(t *rapid.T) {
				clear(r.rows)
				r.f.Missing(now, "web")
				r.act()
			},
			"silence": func(t *rapid.T) {
				r.f.Load(now, Sender{"me", "nrt"}, &wire.Load{Header: wire.Header{Incarnation: 1, Seq: 1}})
				for range 6 {
					advance(sec)
					r.f.Load(now, Sender{"me", "nrt"}, &wire.Load{Header: wire.Header{Incarnation: 1, Seq: 1}})
				}
			},
			"restart": func(t *rapid.T) {
				o.p.Renumber(o.p.Incarnation() + rapid.Uint64Range(1, 3).Draw(t, "later by"))
				o.note()
			},
			"": func(t *rapid.T) {
				n, ok := r.f.nodes["w"]
				if !ok || !n.whole {
					return
				}
				pos := n.incarnation<<32 | n.applied
				if pos < at {
					t.Fatalf("went back from %d/%d to %d/%d", at>>32, at&0xffffffff, n.incarnation, n.applied)
				}
				at = pos
				if want, ok := o.history[pos]; ok {
					if d := cmp.Diff(want, r.rows); d != "" {
						t.Fatalf("at %d/%d (-owner +reader)\n%s", n.incarnation, n.applied, d)
					}
				}
				if n.rows > heldRows || len(n.held) > heldMessages {
					t.Fatalf("%d messages held", len(n.held))
				}
				if busy := len(r.f.wanting); r.f.busy > busy {
					t.Fatalf("%d questions on their way, %d wanted", r.f.busy, busy)
				}
			},
		})
		for _, b := range answers {
			r.answered(t, now, "w", b)
		}
		for range 40 { // messages arrive again
			advance(11 * sec)
			r.f.Load(now, from, o.beat())
			r.act()
			for len(r.asked) > 0 {
				a := r.asked[0]
				r.asked = r.asked[1:]
				answer(a)
			}
		}
		if d := cmp.Diff(o.now, r.rows); d != "" {
			t.Fatalf("in the end (-owner +reader)\n%s", d)
		}
		if n := r.f.nodes["w"]; n.behind() || len(r.f.wanting) > 0 || len(n.held) > 0 {
			t.Fatalf("still behind: %+v", n)
		}
	})
}
