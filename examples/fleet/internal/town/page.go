package town

import (
	"embed"
	"encoding/json"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
)

//go:embed page
var files embed.FS

// contentSecurity lets the page load its own files only.
const contentSecurity = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Handler serves the page:
//
//	/            the page, live
//	/fleet.json  a [State]
//	/do          POST node and what: does something to a process, see [Town.Do]
//
// Requests of other origins are refused, as are those that name this host by anything but an IP
// address or localhost.
func (t *Town) Handler() http.Handler {
	mux := http.NewServeMux()
	page, err := fs.Sub(files, "page")
	if err != nil {
		panic(err) // the name is a constant
	}
	mux.Handle("GET /", http.FileServerFS(page))
	mux.HandleFunc("GET /fleet.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(t.State())
	})
	mux.HandleFunc("POST /do", func(w http.ResponseWriter, r *http.Request) {
		if err := t.Do(r.FormValue("node"), r.FormValue("what")); err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
		}
	})
	own := http.NewCrossOriginProtection().Handler(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !local(r.Host) {
			http.Error(w, "want an address or localhost as Host", http.StatusForbidden)
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Content-Security-Policy", contentSecurity)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		own.ServeHTTP(w, r)
	})
}

// local reports whether a request names this host by an IP address or as localhost: nobody can point
// these at another host, as they can other names.
func local(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = host
	}
	_, err = netip.ParseAddr(name)
	return err == nil || name == "localhost"
}
