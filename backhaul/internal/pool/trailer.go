package pool

import (
	"maps"
	"net/http"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
)

// trailers are a request's trailers, which arrive with the end of its body.
type trailers struct {
	from  *http.Request // nil: there are none
	names http.Header   // those that were announced and may be passed on
	came  http.Header   // nil before the end
}

// next returns the trailer of the next try's request, or nil: the names that the client has
// announced. Over HTTP/1.1 others may come as well.
func (t *trailers) next(h2 bool) http.Header {
	if t.from == nil || h2 && t.names == nil {
		return nil
	}
	h := make(http.Header, len(t.names))
	for k := range t.names {
		h[k] = nil
	}
	return h
}

// take records the trailers at the end of the body. Whoever has read the end sees the request's
// trailers set.
func (t *trailers) take() {
	if t.from == nil {
		return
	}
	for k, v := range t.from.Trailer {
		if v != nil && hop.PassesAsTrailer(k) {
			if t.came == nil {
				t.came = make(http.Header, len(t.from.Trailer))
			}
			t.came[k] = v
		}
	}
}

// fill sets the values of a try's trailer.
func (t *trailers) fill(h http.Header) { maps.Copy(h, t.came) }
