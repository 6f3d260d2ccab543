package backhaul

import (
	"strconv"

	"github.com/ebbkit/ebb/balance"
)

// The headers of the hop. They are removed from what clients and machines send, in every spelling, also that of CGI and WSGI,
// for which Ebb_Load is Ebb-Load.
const (
	prefix       = "Ebb-"
	headerTo     = "Ebb-To"     // request: which machine, and what the edge knows of it
	headerAsk    = "Ebb-Ask"    // request, HTTP/2: "body", which waits for "100 Continue", or "word": say it when the request is admitted
	headerLoad   = "Ebb-Load"   // answer: the machine's load
	headerBounce = "Ebb-Bounce" // answer: refused, and why
	headerFault  = "Ebb-Fault"  // answer: the machine failed, and how
)

// internal reports whether a header belongs to the hop.
func internal(name string) bool {
	return len(name) >= len(prefix) && (name[3] == '-' || name[3] == '_') && name[0]|0x20 == 'e' && name[1]|0x20 == 'b' && name[2]|0x20 == 'b'
}

// appendLoad writes a load as eight numbers: in flight, soft, hard, state, cordon, cordon generation, epoch, sequence.
func appendLoad(b []byte, l balance.Load) []byte {
	b = strconv.AppendInt(b, int64(l.InFlight), 10)
	for _, n := range [...]uint64{uint64(l.Limits.Soft), uint64(l.Limits.Hard), uint64(l.State), uint64(l.Cordon), l.CordonGen, l.Epoch, l.Seq} {
		b = append(b, ' ')
		b = strconv.AppendUint(b, n, 10)
	}
	return b
}

// parseLoad is the inverse. Further numbers, of a later version, are ignored; anything else that appendLoad would not
// write is refused.
func parseLoad(s string) (l balance.Load, ok bool) {
	var n [8]uint64
	for i := range n {
		var field string
		field, s = cut(s, ' ')
		if n[i], ok = number(field); !ok {
			return balance.Load{}, false
		}
	}
	if max(n[0], n[1], n[2]) > balance.MaxLimit || n[3] > uint64(balance.StateFailed) || n[4] > uint64(balance.CordonHard) {
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
