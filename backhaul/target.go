package backhaul

import (
	"net/http"
	"net/url"
	"strings"
)

// keepTarget has net/http send a request's target and Host as they came, where it would write them in its own way. The
// URL of out is replaced, not changed: others may have it.
//
// net/http writes a path that has bytes which a URL may not have ("|", raw UTF-8) anew from its decoded form, and so turns
// %2F into a slash. It keeps what it was given as Opaque.
//
// An empty Host it fills in with the URL's, which is our own name for what the request is for. Over HTTP/1.1 it writes an
// empty one where the URL's cannot be a Host; over HTTP/2 it has no way to, and the app gets a name that nobody has.
func keepTarget(out *http.Request, h2 bool) {
	opaque, raw := exactPath(out.URL)
	if opaque == "" && raw == out.URL.RawPath && out.Host != "" {
		return
	}
	u := *out.URL
	u.Opaque, u.RawPath = opaque, raw
	switch {
	case out.Host != "":
	case h2:
		u.Host = "invalid" // RFC 6761, 6.4
	default:
		u.Host = "/"
	}
	out.URL = &u
}

// exactPath returns what of u has to be replaced for its path to be written as it came.
func exactPath(u *url.URL) (opaque, rawPath string) {
	raw := u.RawPath
	if raw == "" || u.Opaque != "" || u.EscapedPath() == raw {
		return u.Opaque, raw
	}
	if path, err := url.PathUnescape(raw); err != nil || path != u.Path {
		return "", raw // somebody has changed the path, and means it
	}
	if raw[0] != '/' || strings.ContainsFunc(raw, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '?' }) {
		return "", raw
	}
	if strings.HasPrefix(raw, "//") { // as Opaque it would be a host
		return "", escapeRest(raw)
	}
	return raw, raw
}

// escapeRest escapes what may not stand in a path, and leaves alone what is escaped.
func escapeRest(raw string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(raw) {
		if c := raw[i]; pathByte(c) {
			b.WriteByte(c)
		} else {
			b.WriteString(string([]byte{'%', hex[c>>4], hex[c&15]}))
		}
	}
	return b.String()
}

// pathByte reports whether a path may have c (RFC 3986, 3.3), "%" included. So may brackets, says net/url.
func pathByte(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.IndexByte("-._~!$&'()*+,;=:@/%[]", c) >= 0
}
