package backhaul

import (
	"strconv"

	"github.com/ebbkit/ebb/balance"
)

// parseBounce reads the reason of a bounce. A reason of a later version is still a bounce: the request was not executed,
// and this owner will not take it.
func parseBounce(s string) balance.Bounce {
	var b balance.Bounce
	if b.UnmarshalText([]byte(s)) == nil && b != balance.BounceNone {
		return b
	}
	return balance.BounceNotHere
}

// to is what an edge tells an owner about the machine that it has picked.
type to struct {
	app  balance.AppID
	id   balance.MachineID
	gen  uint64 // the cordon generation that the edge knew
	node balance.NodeID
	slot uint64 // the token of the slot that the owner has granted; 0 for none
}

// appendTo writes "app;machine;generation;node", and ";token" where there is one.
func appendTo(b []byte, t to) []byte {
	b = append(escape(b, string(t.app)), ';')
	b = append(escape(b, string(t.id)), ';')
	b = append(strconv.AppendUint(b, t.gen, 10), ';')
	b = escape(b, string(t.node))
	if t.slot != 0 {
		b = strconv.AppendUint(append(b, ';'), t.slot, 10)
	}
	return b
}

// parseTo is the inverse. Further fields are ignored, and a token that cannot be read is none: it only ever gets a request
// in sooner.
func parseTo(s string) (t to, ok bool) {
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
		return to{}, false
	}
	return to{app: balance.AppID(a), id: balance.MachineID(i), gen: g, node: balance.NodeID(n), slot: slot}, true
}

// maxFault bounds the words that go with a fault.
const maxFault = 300

// appendFault writes "failure;words".
func appendFault(b []byte, f Failure, words string) []byte {
	b = append(append(b, f.String()...), ';')
	return escape(b, words[:min(len(words), maxFault)])
}

// parseFault reads a fault. What a later version calls by another name is taken for the worst: a reset.
func parseFault(s string) (f Failure, words string) {
	name, rest := cut(s, ';')
	if f.UnmarshalText([]byte(name)) != nil || f == FailNone {
		f = FailReset
	}
	words, ok := unescape(rest)
	if !ok {
		words = ""
	}
	return f, words
}

// plain are the bytes that stand for themselves; all others are written as % and two digits.
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
