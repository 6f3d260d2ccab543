package backhaul

import (
	"net/http"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
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
	opaque, raw := hop.ExactPath(out.URL)
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
