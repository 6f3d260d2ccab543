package status

import (
	"encoding/json"
	"fmt"
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

// maxLink bounds the round trip that can be set: above it nothing but timeouts can be seen.
const maxLink = 10 * time.Second

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
	if !fromHere(w, r) {
		return
	}
	links := linksOf(src)
	if len(links) == 0 {
		http.Error(w, noLinks, http.StatusNotFound)
		return
	}
	var c change
	err := readWish(w, r, &c, c.fill, wantChange)
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
		refuse(w, err)
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

// wantChange is the remedy for a body that is none.
var wantChange = example{`{"from": "nrt", "to": "fra", "ms": 300}`, "from=nrt&to=fra&ms=300"}

// fill reads the wish from a form.
func (c *change) fill(form url.Values) error {
	*c = change{form.Get("from"), form.Get("to"), json.Number(form.Get("ms"))}
	return nil
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
