// Package status serves the state and decisions of a proxy: a page for people, and the same data
// for scripts.
//
//	/             the page, live
//	/status.json  a [Snapshot]
//	/events       the decisions, as server-sent events
//	/links        the emulated links, a list of [Link]; POST changes one (of a source with [Links])
//	/stop         POST stops a machine, for maintenance (of a source with [Stops])
//	/history      the last two minutes, a list of [Sample] (of a source that is a [Historian])
//	/picks        the latest sampled picks, with reasons, a list of [Pick] (of a source with [Picks])
package status

import (
	"embed"
	"encoding/json"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/ebbkit/ebb/internal/eventlog"
)

// Source supplies what the pages show. Both methods are called concurrently. A source may also be a
// [Links], a [Picks], a [Stops] and a [Historian]; the page leaves out what the source does not
// implement.
type Source interface {
	// Snapshot returns the present state. The page asks twice a second.
	Snapshot() Snapshot
	// Events returns the log of decisions, always the same.
	Events() *eventlog.Log
}

// page is written by hand and needs nothing from elsewhere.
//
//go:embed page
var page embed.FS

// contentSecurity lets the page load only its own files, and run no inline script.
const contentSecurity = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Handler serves the page and its data; see the package comment. It is read-only, except for POST
// /links and /stop, which pages of other origins cannot use. Requests are refused unless they name
// this machine: by an IP address, as localhost or by one of names. Everybody who can reach it sees
// everything, so it belongs on a private address. A connection to /events ends when its client
// leaves or the log is closed; an [http.Server.Shutdown] waits for that.
func Handler(src Source, names ...string) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /{$}", static("index.html", "text/html"))
	mux.Handle("GET /page.css", static("page.css", "text/css"))
	for _, name := range scripts {
		mux.Handle("GET /"+name, static(name, "text/javascript"))
	}
	mux.HandleFunc("GET /status.json", func(w http.ResponseWriter, r *http.Request) {
		s := src.Snapshot().normal()
		s.Also = also(src)
		writeJSON(w, s)
	})
	mux.HandleFunc(
		"GET /events", func(w http.ResponseWriter, r *http.Request) { serveEvents(w, r, src.Events()) },
	)
	mux.HandleFunc(
		"GET /history", func(w http.ResponseWriter, r *http.Request) { listHistory(w, src) },
	)
	mux.HandleFunc("GET /links", func(w http.ResponseWriter, r *http.Request) { listLinks(w, src) })
	mux.HandleFunc(
		"POST /links", func(w http.ResponseWriter, r *http.Request) { changeLink(w, r, src) },
	)
	mux.HandleFunc(
		"POST /stop", func(w http.ResponseWriter, r *http.Request) { stopMachine(w, r, src) },
	)
	mux.HandleFunc("GET /picks", func(w http.ResponseWriter, r *http.Request) { listPicks(w, src) })
	pages := forUs(mux, names)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", contentSecurity)
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Content-Type-Options", "nosniff")
		pages.ServeHTTP(w, r)
	})
}

// also returns the names of the optional resources that src implements.
func also(src Source) (names []string) {
	if len(linksOf(src)) > 0 {
		names = append(names, "links")
	}
	if _, ok := src.(Historian); ok {
		names = append(names, "history")
	}
	if _, ok := src.(Picks); ok {
		names = append(names, "picks")
	}
	if _, ok := src.(Stops); ok {
		names = append(names, "stop")
	}
	return names
}

func writeJSON(w http.ResponseWriter, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, "status: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(append(body, '\n'))
}

// scripts are the modules of the page.
var scripts = []string{
	"page.js", "dom.js", "history.js", "links.js", "log.js", "picks.js", "regions.js", "roundtrips.js",
}

// static serves a file of the page. The type is not taken from the system's table, which is wrong
// on some systems.
func static(name, contentType string) http.Handler {
	body, err := page.ReadFile("page/" + name)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err != nil { // a test asks for every file
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", contentType+"; charset=utf-8")
		w.Write(body)
	})
}

// known reports whether a request was made for this page. An attacker's page can have its own name
// point to this machine (DNS rebinding): the browser then takes it for the same origin, and only
// the name in Host shows the difference. Nobody can redirect an address, so every IP literal is
// accepted, whatever the port: a port forward may use another one.
func known(host string, names []string) bool {
	name := hostname(host)
	if addr, ok := strings.CutPrefix(name, "["); ok {
		name = strings.TrimSuffix(addr, "]")
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return true
	}
	return name == "localhost" ||
		slices.ContainsFunc(names, func(n string) bool { return name == hostname(n) && name != "" })
}

// hostname returns a Host without its port, in lower case and without the dot at the end of a
// full name.
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
			http.Error(
				w,
				"status: Host "+shown(
					r.Host,
				)+": want an IP address, localhost or one of the names that the page was given",
				http.StatusForbidden,
			)
			return
		}
		next.ServeHTTP(w, r)
	})
}
