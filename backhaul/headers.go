package backhaul

import (
	"context"
	"net/http"
	"net/http/httptrace"
	"net/textproto"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
)

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
		hop.StripInternal(http.Header(h))
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
		if v != nil && hop.PassesAsTrailer(k) {
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
