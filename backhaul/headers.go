package backhaul

import (
	"context"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strconv"
	"strings"
)

// strip removes the headers of the hop.
func strip(h map[string][]string) {
	for k := range h {
		if internal(k) {
			delete(h, k)
		}
	}
}

// setEpoch tells a machine its epoch. What the client has sent under that name is removed, also under names that CGI and
// WSGI give the same variable.
func setEpoch(h map[string][]string, name string, epoch uint64) {
	if name == "" {
		return
	}
	for k := range h {
		if sameVariable(k, name) {
			delete(h, k)
		}
	}
	h[name] = []string{strconv.FormatUint(epoch, 10)}
}

// sameVariable reports whether CGI (RFC 3875, 4.1.18) and WSGI make one variable of two headers.
func sameVariable(a, b string) bool {
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

// Upgrades to another version of HTTP are not passed on: in such a connection nobody would see requests any more, or
// remove headers of the hop from them. The request goes on as if it had not asked.
const headerHTTP2Settings = "Http2-Settings"

// keepHTTP removes the request to go on in another version of HTTP. The slices in h belong to somebody else.
func keepHTTP(h map[string][]string) {
	delete(h, headerHTTP2Settings)
	if h["Upgrade"] == nil {
		return
	}
	to := withoutHTTP(h["Upgrade"])
	if to != "" {
		h["Upgrade"] = []string{to}
		return
	}
	delete(h, "Upgrade")
	h["Connection"] = without(h["Connection"], func(option string) bool {
		return strings.EqualFold(option, "Upgrade") || strings.EqualFold(option, headerHTTP2Settings)
	})
	if len(h["Connection"]) == 0 {
		delete(h, "Connection")
	}
}

// withoutHTTP returns the protocols of an Upgrade header but for versions of HTTP; "" where none is left.
func withoutHTTP(lists []string) string {
	return strings.Join(without(lists, func(protocol string) bool {
		name, _, _ := strings.Cut(strings.ToLower(protocol), "/")
		return name == "http" || name == "h2" || name == "h2c" || strings.HasPrefix(name, "h2c-")
	}), ", ")
}

// without returns the members of lists but for some.
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

// switched reports whether an answer switches to a protocol that the request did not ask for.
func switched(asked map[string][]string, status int, answer map[string][]string) bool {
	if status != 101 {
		return false
	}
	to := answer["Upgrade"]
	return len(to) != 1 || to[0] == "" || !hasToken(asked["Upgrade"], strings.TrimSpace(to[0]))
}

// passing1xx is a context whose trace gets the 1xx answers of machines without the headers of the hop, and no "100
// Continue" where that is the hop's own.
func passing1xx(ctx context.Context, hide100 bool) context.Context {
	outer := httptrace.ContextClientTrace(ctx)
	if outer == nil || outer.Got1xxResponse == nil {
		return ctx
	}
	inner := *outer
	inner.Got1xxResponse = func(code int, h textproto.MIMEHeader) error {
		if hide100 && code == http.StatusContinue {
			return nil
		}
		strip(http.Header(h))
		return outer.Got1xxResponse(code, h)
	}
	if hide100 {
		inner.Got100Continue = nil
	}
	return httptrace.WithClientTrace(untraced{ctx}, &inner)
}

// untraced is a context without a trace, which would be called beside the one that takes its place.
type untraced struct{ context.Context }

func (u untraced) Value(key any) any {
	v := u.Context.Value(key)
	if _, ok := v.(*httptrace.ClientTrace); ok {
		return nil
	}
	return v
}

// passesAsTrailer reports whether a request's trailer is passed on: none of the hop, and none that the recipient may take
// for a header that frames or routes the request (RFC 9110, 6.5.1).
func passesAsTrailer(k string) bool {
	if k == "" || internal(k) || hopByHop(k) || strings.ContainsFunc(k, func(r rune) bool { return !tokenRune(r) }) {
		return false
	}
	switch k {
	case "Content-Length", "Host", "Expect":
		return false
	}
	return true
}

// announced returns the names of a request's trailers that are passed on, or nil. The values come with the end of the body.
func announced(trailer map[string][]string) (names map[string][]string) {
	for k := range trailer {
		if passesAsTrailer(k) {
			if names == nil {
				names = make(map[string][]string, len(trailer))
			}
			names[k] = nil
		}
	}
	return names
}

// newTrailer returns the trailer of a further try's request, or nil: the names that the client has announced. Over HTTP/1.1
// others may come as well.
func (s *source) newTrailer(h2 bool) http.Header {
	if s.from == nil || h2 && s.names == nil {
		return nil
	}
	t := make(http.Header, len(s.names))
	for k := range s.names {
		t[k] = nil
	}
	return t
}

// takeTrailers notes the trailers at the end of the body; s.mu is held. Whoever has read the end has seen the request's
// trailers set.
func (s *source) takeTrailers() {
	if s.from == nil {
		return
	}
	for k, v := range s.from.Trailer {
		if v != nil && passesAsTrailer(k) {
			if s.trailers == nil {
				s.trailers = make(http.Header, len(s.from.Trailer))
			}
			s.trailers[k] = v
		}
	}
}

// fillTrailer sets the values of a try's trailer.
func (s *source) fillTrailer(t http.Header) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, v := range s.trailers {
		t[k] = v
	}
}
