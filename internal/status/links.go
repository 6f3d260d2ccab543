package status

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Links is what a [Source] also implements when the links between its regions are emulated. Both methods are called
// concurrently.
type Links interface {
	// Links returns every link once, always in the same order. With none, the page and /links say that there are none.
	Links() []Link
	// SetLink makes rtt the round trip of one of these links, given in the order of Link, at once and for what follows. The
	// arguments have been checked: rtt is from 0 to 10 s. The error goes to the person who asked.
	SetLink(from, to string, rtt time.Duration) error
}

// Link is an emulated link between two regions; it is as long in both directions.
type Link struct {
	From  string  `json:"from"`
	To    string  `json:"to"`
	MS    float64 `json:"ms"`       // the round trip that it has now
	Usual float64 `json:"usual_ms"` // and what it had at first, for the way back
}

const (
	// maxLink bounds the round trip that can be set: above it nothing but timeouts can be seen.
	maxLink = 10 * time.Second

	// maxBody is more than any request to change a link needs.
	maxBody = 4 << 10
)

// noLinks answers for a source without links. A list would promise that it can be changed.
const noLinks = "status: no emulated links: there is nothing to change"

func linksOf(src Source) []Link {
	if l, ok := src.(Links); ok {
		return l.Links()
	}
	return nil
}

func listLinks(w http.ResponseWriter, src Source) {
	links := linksOf(src)
	if len(links) == 0 {
		http.Error(w, noLinks, http.StatusNotFound)
		return
	}
	writeJSON(w, links)
}

// changeLink serves POST /links with {from, to, ms} as JSON or as a form. It answers with the link as it is now. The order of
// from and to does not matter.
func changeLink(w http.ResponseWriter, r *http.Request, src Source) {
	// Pages from elsewhere can send a form here without asking, so the origin is what decides. Who sends neither Origin nor
	// Sec-Fetch-Site is no browser.
	if err := http.NewCrossOriginProtection().Check(r); err != nil {
		http.Error(w, "status: "+err.Error()+": change links from this page, or from outside a browser", http.StatusForbidden)
		return
	}
	links := linksOf(src)
	if len(links) == 0 {
		http.Error(w, noLinks, http.StatusNotFound)
		return
	}
	c, err := readChange(w, r)
	i := -1
	if err == nil {
		i, err = c.find(links)
	}
	var rtt time.Duration
	if err == nil {
		rtt, err = c.rtt()
	}
	if err == nil {
		err = src.(Links).SetLink(links[i].From, links[i].To, rtt)
	}
	if err != nil {
		code := http.StatusBadRequest
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			code = http.StatusRequestEntityTooLarge
		} else if errors.Is(err, errContentType) {
			code = http.StatusUnsupportedMediaType
		}
		http.Error(w, "status: "+err.Error(), code)
		return
	}
	if now := linksOf(src); i < len(now) {
		links[i] = now[i]
	}
	writeJSON(w, links[i])
}

// change is a wish, as it was written.
type change struct {
	From string      `json:"from"`
	To   string      `json:"to"`
	MS   json.Number `json:"ms"`
}

var errContentType = errors.New("want application/json or application/x-www-form-urlencoded")

// wantChange is the remedy for a body that is none.
const wantChange = `want something like {"from": "nrt", "to": "fra", "ms": 300}`

func readChange(w http.ResponseWriter, r *http.Request) (c change, err error) {
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if kind != "application/json" && kind != "application/x-www-form-urlencoded" {
		return c, fmt.Errorf("Content-Type %q: %w", r.Header.Get("Content-Type"), errContentType)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return c, fmt.Errorf("body: %w: %s", err, wantChange)
	}
	if kind == "application/json" {
		d := json.NewDecoder(bytes.NewReader(body))
		d.DisallowUnknownFields()
		if err := d.Decode(&c); err != nil {
			return c, fmt.Errorf("body %s: %v: %s", shown(string(body)), err, wantChange)
		}
		if d.More() {
			return c, fmt.Errorf("body %s: goes on after its end: %s", shown(string(body)), wantChange)
		}
		return c, nil
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return c, fmt.Errorf("body %s: %v: want something like from=nrt&to=fra&ms=300", shown(string(body)), err)
	}
	return change{form.Get("from"), form.Get("to"), json.Number(form.Get("ms"))}, nil
}

// find returns the index of the link that is meant.
func (c change) find(links []Link) (int, error) {
	var regions []string
	for _, l := range links {
		regions = append(regions, l.From, l.To)
	}
	slices.Sort(regions)
	regions = slices.Compact(regions)
	for _, f := range []struct{ name, value string }{{"from", c.From}, {"to", c.To}} {
		if !slices.Contains(regions, f.value) {
			return 0, fmt.Errorf("%s %s: want a region, one of %s", f.name, shown(f.value), strings.Join(regions, ", "))
		}
	}
	i := slices.IndexFunc(links, func(l Link) bool {
		return l.From == c.From && l.To == c.To || l.From == c.To && l.To == c.From
	})
	switch {
	case i >= 0:
		return i, nil
	case c.From == c.To:
		return 0, fmt.Errorf("to %s: want another region than from: inside a region there is no link", shown(c.To))
	}
	return 0, fmt.Errorf("to %s: no link from %s: GET /links lists them", shown(c.To), c.From)
}

func (c change) rtt() (time.Duration, error) {
	ms, err := strconv.ParseFloat(string(c.MS), 64)
	// The comparison is this way round because of NaN.
	if limit := float64(maxLink / time.Millisecond); err != nil || !(ms >= 0 && ms <= limit) {
		return 0, fmt.Errorf("ms %s: want milliseconds of round trip from 0 to %v", shown(string(c.MS)), limit)
	}
	return time.Duration(ms * float64(time.Millisecond)), nil
}

// shown quotes what someone sent, and not more of it than helps.
func shown(s string) string {
	if len(s) > 60 {
		s = s[:60] + "…"
	}
	return strconv.Quote(s)
}
