package status

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// known reports whether a request was made for this page. A page of somebody else can have its own name point to this
// machine (DNS rebinding): then the browser takes it for the same origin, and only the name in Host tells. Nobody can point
// an address elsewhere, so every IP literal is good, whatever the port: what forwards the port may have another.
func known(host string, names []string) bool {
	name := hostname(host)
	if addr, ok := strings.CutPrefix(name, "["); ok {
		name = strings.TrimSuffix(addr, "]")
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return true
	}
	return name == "localhost" || slices.ContainsFunc(names, func(n string) bool { return name == hostname(n) && name != "" })
}

// hostname returns a Host without its port, in lower case and without the dot at the end of a full name.
func hostname(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && strings.Trim(host[i+1:], "0123456789") == "" {
		host = host[:i]
	}
	return strings.TrimSuffix(strings.ToLower(host), ".")
}

// forUs serves requests that were made for this page, and refuses others.
func forUs(next http.Handler, names []string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !known(r.Host, names) {
			http.Error(w, "status: Host "+shown(r.Host)+": want an IP address, localhost or one of the names that the page was given", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}
