package hop

import (
	"strconv"

	"github.com/ebbkit/ebb/balance"
)

// ParseBounce reads the reason of a bounce. A reason from a later version is still a bounce: the
// request was not executed, and this owner will not take it.
func ParseBounce(s string) balance.Bounce {
	var b balance.Bounce
	if b.UnmarshalText([]byte(s)) == nil && b != balance.BounceNone {
		return b
	}
	return balance.BounceNotHere
}

// To is what an edge tells an owner about the machine it has picked.
type To struct {
	App       balance.AppID
	Machine   balance.MachineID
	CordonGen uint64 // the cordon generation that the edge knew
	Node      balance.NodeID
	Token     uint64 // the token of the slot that the owner has granted; 0 for none
}

// AppendTo writes "app;machine;generation;node", and ";token" where there is one.
func AppendTo(b []byte, t To) []byte {
	b = append(escape(b, string(t.App)), ';')
	b = append(escape(b, string(t.Machine)), ';')
	b = append(strconv.AppendUint(b, t.CordonGen, 10), ';')
	b = escape(b, string(t.Node))
	if t.Token != 0 {
		b = strconv.AppendUint(append(b, ';'), t.Token, 10)
	}
	return b
}

// ParseTo is the inverse of AppendTo. Further fields are ignored, and an unreadable token counts as
// none: all it can do is let a request in sooner.
func ParseTo(s string) (t To, ok bool) {
	app, s := cut(s, ';')
	id, s := cut(s, ';')
	gen, s := cut(s, ';')
	node, s := cut(s, ';')
	token, _ := cut(s, ';')
	slot, _ := number(token)
	g, ok := number(gen)
	a, ok1 := unescape(app)
	i, ok2 := unescape(id)
	n, ok3 := unescape(node)
	if !ok || !ok1 || !ok2 || !ok3 || a == "" || i == "" {
		return To{}, false
	}
	return To{
		App: balance.AppID(a), Machine: balance.MachineID(i), CordonGen: g, Node: balance.NodeID(n),
		Token: slot,
	}, true
}

// ElseMax is how many machines a refusal names.
const ElseMax = 3

// AppendElse writes machines of one app as "machine;owner;machine;owner".
func AppendElse(b []byte, ms []balance.Machine) []byte {
	for i, m := range ms {
		if i > 0 {
			b = append(b, ';')
		}
		b = append(escape(b, string(m.ID)), ';')
		b = escape(b, string(m.Owner))
	}
	return b
}

// ParseElse is the inverse of AppendElse, for machines of that app; it leaves out what it cannot
// read.
func ParseElse(s string, app balance.AppID) (ms []balance.Machine) {
	for s != "" && len(ms) < ElseMax {
		var id, owner string
		id, s = cut(s, ';')
		owner, s = cut(s, ';')
		i, ok := unescape(id)
		o, ok1 := unescape(owner)
		if ok && ok1 && i != "" && o != "" {
			ms = append(ms, balance.Machine{App: app, ID: balance.MachineID(i), Owner: balance.NodeID(o)})
		}
	}
	return ms
}

// maxFault bounds the words that go with a fault.
const maxFault = 300

// AppendFault writes "failure;words".
func AppendFault(b []byte, f Failure, words string) []byte {
	b = append(append(b, f.String()...), ';')
	return escape(b, words[:min(len(words), maxFault)])
}

// ParseFault reads a fault. A name from a later version counts as the worst failure: a reset.
func ParseFault(s string) (f Failure, words string) {
	name, rest := cut(s, ';')
	if f.UnmarshalText([]byte(name)) != nil || f == FailureNone {
		f = FailureReset
	}
	words, ok := unescape(rest)
	if !ok {
		words = ""
	}
	return f, words
}

// plain reports whether a byte stands for itself; all others are written as % and two digits.
func plain(c byte) bool {
	return c > ' ' && c < 0x7f && c != ';' && c != '%' && c != '"' && c != ','
}

const hex = "0123456789ABCDEF"

func escape(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; plain(c) {
			b = append(b, c)
		} else {
			b = append(b, '%', hex[c>>4], hex[c&15])
		}
	}
	return b
}

func unescape(s string) (string, bool) {
	clean := true
	for i := range len(s) {
		if !plain(s[i]) {
			clean = false
			break
		}
	}
	if clean {
		return s, true // the usual case: no allocation
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case plain(c):
			b = append(b, c)
		case c == '%' && i+2 < len(s) && digit(s[i+1]) < 16 && digit(s[i+2]) < 16:
			b = append(b, digit(s[i+1])<<4|digit(s[i+2]))
			i += 2
		default:
			return "", false
		}
	}
	return string(b), true
}

func digit(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	}
	return 16
}

// AppendLoad writes a load as eight numbers: in flight, soft, hard, state, cordon, cordon
// generation, epoch, sequence.
func AppendLoad(b []byte, l balance.Load) []byte {
	b = strconv.AppendInt(b, int64(l.InFlight), 10)
	for _, n := range [...]uint64{
		uint64(l.Limits.Soft), uint64(l.Limits.Hard), uint64(l.State), uint64(l.Cordon), l.CordonGen,
		l.Epoch, l.Seq,
	} {
		b = append(b, ' ')
		b = strconv.AppendUint(b, n, 10)
	}
	return b
}

// ParseLoad is the inverse of AppendLoad. It ignores further numbers, of a later version, and
// refuses anything else that AppendLoad would not write.
func ParseLoad(s string) (l balance.Load, ok bool) {
	var n [8]uint64
	for i := range n {
		var field string
		field, s = cut(s, ' ')
		if n[i], ok = number(field); !ok {
			return balance.Load{}, false
		}
	}
	if max(n[0], n[1], n[2]) > balance.MaxLimit || n[3] > uint64(balance.StateFailed) ||
		n[4] > uint64(balance.CordonHard) {
		return balance.Load{}, false
	}
	return balance.Load{
		InFlight: int(n[0]),
		Limits:   balance.Limits{Soft: int(n[1]), Hard: int(n[2])},
		State:    balance.State(n[3]), Cordon: balance.Cordon(n[4]),
		CordonGen: n[5], Epoch: n[6], Seq: n[7],
	}, true
}

func cut(s string, sep byte) (before, after string) {
	for i := range len(s) {
		if s[i] == sep {
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

// number reads a decimal number without sign, spaces or leading zeros.
func number(s string) (n uint64, ok bool) {
	if len(s) == 0 || len(s) > 20 || s[0] == '0' && len(s) > 1 {
		return 0, false
	}
	for i := range len(s) {
		d := uint64(s[i] - '0')
		if d > 9 || n > (1<<64-1-d)/10 {
			return 0, false
		}
		n = n*10 + d
	}
	return n, true
}
