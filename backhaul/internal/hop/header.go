package hop

import (
	"net/textproto"
	"strconv"
	"strings"
)

// The headers of the hop. They are removed from what clients and machines send, in every spelling:
// also in that of CGI and WSGI, for which Ebb_Load is Ebb-Load.
const (
	headerPrefix = "Ebb-"
	HeaderTo     = "Ebb-To" // request: which machine, and what the edge knows of it
	// on a request over HTTP/2: "body" (it waits for "100 Continue") or "word" (send that when the
	// request is admitted)
	HeaderAsk    = "Ebb-Ask"
	HeaderOrder  = "Ebb-Order"  // request: for the node itself; who sends it, in the form of queries
	HeaderLoad   = "Ebb-Load"   // answer: the machine's load
	HeaderBounce = "Ebb-Bounce" // answer: refused, and why
	HeaderElse   = "Ebb-Else"   // answer: refused; machines that are ready, and whose they are
	HeaderFault  = "Ebb-Fault"  // answer: the machine failed, and how
)

// IsInternal reports whether a header belongs to the hop.
func IsInternal(name string) bool {
	return len(name) >= len(headerPrefix) && (name[3] == '-' || name[3] == '_') &&
		name[0]|0x20 == 'e' &&
		name[1]|0x20 == 'b' &&
		name[2]|0x20 == 'b'
}

// StripInternal removes the headers of the hop.
func StripInternal(h map[string][]string) {
	for k := range h {
		if IsInternal(k) {
			delete(h, k)
		}
	}
}

// IsTokenRune reports whether a header's name may contain r (RFC 9110, 5.6.2).
func IsTokenRune(r rune) bool {
	return r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' ||
		strings.ContainsRune("!#$%&'*+-.^_`|~", r)
}

func IsGRPC(mediaType string) bool {
	rest, ok := strings.CutPrefix(mediaType, "application/grpc")
	return ok && (rest == "" || rest[0] == '+')
}

// MediaType returns the type of a body, without parameters.
func MediaType(h map[string][]string) string {
	v := h["Content-Type"]
	if len(v) == 0 {
		return ""
	}
	t, _, _ := strings.Cut(v[0], ";")
	return strings.ToLower(strings.TrimSpace(t))
}

// CopyHeader copies the headers that are meant for the other end: neither those of one connection
// nor those of the hop. upgrade, unless nil, is what the connection becomes.
func CopyHeader(dst, src map[string][]string, upgrade []string) {
	named := src["Connection"]
	for k, v := range src {
		if !IsInternal(k) && !hopByHop(k) {
			dst[k] = v
		}
	}
	for _, list := range named {
		for name := range strings.SplitSeq(list, ",") {
			delete(dst, textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name)))
		}
	}
	if upgrade != nil {
		dst["Connection"], dst["Upgrade"] = []string{"Upgrade"}, upgrade
	}
}

func hopByHop(k string) bool {
	switch k {
	case "Connection",
		"Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer",
		"Transfer-Encoding",
		"Upgrade":
		return true
	}
	return false
}

func HasToken(lists []string, token string) bool {
	for _, list := range lists {
		for name := range strings.SplitSeq(list, ",") {
			if strings.EqualFold(strings.TrimSpace(name), token) {
				return true
			}
		}
	}
	return false
}

// SetEpoch tells a machine its epoch. Headers of that name from the client are removed, also under
// names that CGI and WSGI map to the same variable.
func SetEpoch(h map[string][]string, name string, epoch uint64) {
	if name == "" {
		return
	}
	for k := range h {
		if SameVariable(k, name) {
			delete(h, k)
		}
	}
	h[name] = []string{strconv.FormatUint(epoch, 10)}
}

// SameVariable reports whether CGI (RFC 3875, 4.1.18) and WSGI map two headers to one variable.
func SameVariable(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if variableByte(a[i]) != variableByte(b[i]) {
			return false
		}
	}
	return true
}

func variableByte(c byte) byte {
	switch {
	case c == '_':
		return '-'
	case c >= 'A' && c <= 'Z':
		return c | 0x20
	}
	return c
}

// HeaderHTTP2Settings belongs to an upgrade to another version of HTTP. Such upgrades are not
// passed on: on such a connection nobody would see requests or remove headers of the hop from them.
// The request goes on as if it had not asked.
const HeaderHTTP2Settings = "Http2-Settings"

// KeepHTTP removes the request to switch to another version of HTTP. It does not change the slices
// in h.
func KeepHTTP(h map[string][]string) {
	delete(h, HeaderHTTP2Settings)
	if h["Upgrade"] == nil {
		return
	}
	to := WithoutHTTP(h["Upgrade"])
	if to != "" {
		h["Upgrade"] = []string{to}
		return
	}
	delete(h, "Upgrade")
	h["Connection"] = without(h["Connection"], func(option string) bool {
		return strings.EqualFold(option, "Upgrade") || strings.EqualFold(option, HeaderHTTP2Settings)
	})
	if len(h["Connection"]) == 0 {
		delete(h, "Connection")
	}
}

// WithoutHTTP returns the protocols of an Upgrade header except versions of HTTP, or "" if none is
// left.
func WithoutHTTP(lists []string) string {
	return strings.Join(without(lists, func(protocol string) bool {
		name, _, _ := strings.Cut(strings.ToLower(protocol), "/")
		return name == "http" || name == "h2" || name == "h2c" || strings.HasPrefix(name, "h2c-")
	}), ", ")
}

// without returns the members of lists that drop does not reject.
func without(lists []string, drop func(string) bool) (left []string) {
	for _, list := range lists {
		for member := range strings.SplitSeq(list, ",") {
			if member = strings.TrimSpace(member); member != "" && !drop(member) {
				left = append(left, member)
			}
		}
	}
	return left
}

// Switched reports whether an answer switches to a protocol that the request did not ask for.
func Switched(asked map[string][]string, status int, answer map[string][]string) bool {
	if status != 101 {
		return false
	}
	to := answer["Upgrade"]
	return len(to) != 1 || to[0] == "" || !HasToken(asked["Upgrade"], strings.TrimSpace(to[0]))
}

// PassesAsTrailer reports whether a request's trailer is passed on: not one of the hop, and not one
// that the recipient may take for a header that frames or routes the request (RFC 9110, 6.5.1).
func PassesAsTrailer(k string) bool {
	if k == "" || IsInternal(k) || hopByHop(k) ||
		strings.ContainsFunc(k, func(r rune) bool { return !IsTokenRune(r) }) {
		return false
	}
	switch k {
	case "Content-Length", "Host", "Expect":
		return false
	}
	return true
}

// Announced returns the names of a request's trailers that are passed on, or nil. The values arrive
// with the end of the body.
func Announced(trailer map[string][]string) (names map[string][]string) {
	for k := range trailer {
		if PassesAsTrailer(k) {
			if names == nil {
				names = make(map[string][]string, len(trailer))
			}
			names[k] = nil
		}
	}
	return names
}
