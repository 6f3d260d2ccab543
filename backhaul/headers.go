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
