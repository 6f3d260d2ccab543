package hop

import (
	"net/url"
	"strings"
)

// ExactPath returns the fields of u to replace so that its path is written as it arrived.
func ExactPath(u *url.URL) (opaque, rawPath string) {
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

// escapeRest escapes bytes that may not appear in a path, and leaves escapes alone.
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

// pathByte reports whether a path may contain c (RFC 3986, 3.3), including "%" and, as in net/url,
// brackets.
func pathByte(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' ||
		strings.IndexByte("-._~!$&'()*+,;=:@/%[]", c) >= 0
}
