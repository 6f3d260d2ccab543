package status

import (
	"bytes"
	"context"
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

// Links is what a [Source] also implements when the links between its regions are emulated. Both
// methods are called concurrently.
type Links interface {
	// Links returns every link once, always in the same order. With none, the page and /links say
	// that there are none.
	Links() []Link
	// SetLink makes rtt the round trip of one of these links, given in the order of Link, at once
	// and for all later traffic. The arguments have been checked: rtt is from 0 to 10 s. The error
	// is shown to the person who asked.
	SetLink(from, to string, rtt time.Duration) error
}

// Link is an emulated link between two regions, with the same delay in both directions.
type Link struct {
	From  string  `json:"from"`
	To    string  `json:"to"`
	MS    float64 `json:"ms"`       // the present round trip
	Usual float64 `json:"usual_ms"` // the initial one, to return to
}

// maxLink bounds the round trip that can be set: above it only timeouts can be seen.
const maxLink = 10 * time.Second

// noLinks is the answer for a source without links. An empty list would suggest that it can be
// changed.
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

// changeLink serves POST /links with {from, to, ms} as JSON or as a form. It answers with the link
// in its new state. The order of from and to does not matter.
func changeLink(w http.ResponseWriter, r *http.Request, src Source) {
	if !fromHere(w, r) {
		return
	}
	links := linksOf(src)
	if len(links) == 0 {
		http.Error(w, noLinks, http.StatusNotFound)
		return
	}
	var c linkBody
	err := readBody(w, r, &c, c.fill, wantChange)
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

// linkBody is the body of POST /links, as it was sent.
type linkBody struct {
	From string      `json:"from"`
	To   string      `json:"to"`
	MS   json.Number `json:"ms"`
}

// wantChange is an example of it.
var wantChange = example{`{"from": "nrt", "to": "fra", "ms": 300}`, "from=nrt&to=fra&ms=300"}

// fill reads it from a form.
func (c *linkBody) fill(form url.Values) error {
	*c = linkBody{form.Get("from"), form.Get("to"), json.Number(form.Get("ms"))}
	return nil
}

// find returns the index of the link that the body names.
func (c linkBody) find(links []Link) (int, error) {
	var regions []string
	for _, l := range links {
		regions = append(regions, l.From, l.To)
	}
	slices.Sort(regions)
	regions = slices.Compact(regions)
	for _, f := range []struct{ name, value string }{{"from", c.From}, {"to", c.To}} {
		if !slices.Contains(regions, f.value) {
			return 0, fmt.Errorf(
				"%s %s: want a region, one of %s", f.name, shown(f.value), strings.Join(regions, ", "),
			)
		}
	}
	i := slices.IndexFunc(links, func(l Link) bool {
		return l.From == c.From && l.To == c.To || l.From == c.To && l.To == c.From
	})
	switch {
	case i >= 0:
		return i, nil
	case c.From == c.To:
		return 0, fmt.Errorf(
			"to %s: want another region than from: inside a region there is no link", shown(c.To),
		)
	}
	return 0, fmt.Errorf("to %s: no link from %s: GET /links lists them", shown(c.To), c.From)
}

func (c linkBody) rtt() (time.Duration, error) {
	ms, err := strconv.ParseFloat(string(c.MS), 64)
	// The comparison is written this way because of NaN.
	if limit := float64(maxLink / time.Millisecond); err != nil || !(ms >= 0 && ms <= limit) {
		return 0, fmt.Errorf(
			"ms %s: want milliseconds of round trip from 0 to %v", shown(string(c.MS)), limit,
		)
	}
	return time.Duration(ms * float64(time.Millisecond)), nil
}

// Stops is what a [Source] also implements if people may stop its machines, for maintenance. It is
// called concurrently.
type Stops interface {
	// StopMachine stops a running machine and returns when it has stopped. The error matches
	// [ErrNoMachine] for an unknown machine and [ErrRunsOn] for one that could not be stopped. If
	// ctx ends while the stop can be undone, it is undone.
	StopMachine(ctx context.Context, machine string, o Order) error
}

// Order says how a machine is to be stopped.
type Order struct {
	Reason  string
	Suspend bool // rather than stop
	// how long requests in flight may take behind the closed gate; 0: stop only when nothing is in
	// flight
	Drain time.Duration
}

// The errors of a source when a machine is not stopped.
var (
	ErrNoMachine = errors.New("no such machine")
	ErrRunsOn    = errors.New("the machine runs on")
)

// maxDrain bounds how long can be waited for: a longer time is a mistyped unit.
const maxDrain = time.Hour

// stopped is the answer to a successful stop.
type stopped struct {
	Machine string  `json:"machine"`
	MS      float64 `json:"took_ms"`
}

// stopMachine serves POST /stop with {machine, drain, suspend, reason} as JSON or as a form; only
// the machine is required. It answers when the machine has stopped (200) or runs on (409).
func stopMachine(w http.ResponseWriter, r *http.Request, src Source) {
	if !fromHere(w, r) {
		return
	}
	door, ok := src.(Stops)
	if !ok {
		http.Error(w, "status: machines cannot be stopped from here", http.StatusNotFound)
		return
	}
	var x stopBody
	err := readBody(
		w, r, &x, x.fill, example{`{"machine": "nrt-1", "drain": "10s"}`, "machine=nrt-1&drain=10s"},
	)
	var o Order
	if err == nil {
		o, err = x.order()
	}
	if err != nil {
		refuse(w, err)
		return
	}
	began := time.Now()
	switch err = door.StopMachine(r.Context(), x.Machine, o); {
	case err == nil:
		writeJSON(w, stopped{x.Machine, float64(time.Since(began)) / float64(time.Millisecond)})
	case errors.Is(err, ErrNoMachine):
		http.Error(
			w, fmt.Sprintf("status: machine %s: %v: GET /status.json lists them", shown(x.Machine), err),
			http.StatusNotFound,
		)
	case errors.Is(err, ErrRunsOn):
		http.Error(
			w,
			"status: "+err.Error()+": give what is in flight time to end, as in drain=10s, to stop it all the same",
			http.StatusConflict,
		)
	default:
		http.Error(w, "status: "+err.Error(), http.StatusInternalServerError)
	}
}

// stopBody is the body of POST /stop, as it was sent.
type stopBody struct {
	Machine string `json:"machine"`
	Drain   string `json:"drain"`
	Suspend bool   `json:"suspend"`
	Reason  string `json:"reason"`
}

// fill reads it from a form.
func (x *stopBody) fill(form url.Values) (err error) {
	*x = stopBody{Machine: form.Get("machine"), Drain: form.Get("drain"), Reason: form.Get("reason")}
	if s := form.Get("suspend"); s != "" {
		if x.Suspend, err = strconv.ParseBool(s); err != nil {
			return fmt.Errorf("suspend %s: want true or false", shown(s))
		}
	}
	return nil
}

func (x *stopBody) order() (o Order, err error) {
	o = Order{Reason: x.Reason, Suspend: x.Suspend}
	if o.Reason == "" {
		o.Reason = "stopped by hand"
	}
	if x.Machine == "" {
		return o, errors.New(`machine "": want the name of one: GET /status.json lists them`)
	}
	if len(o.Reason) > 200 {
		return o, fmt.Errorf("reason %s: want at most 200 bytes", shown(o.Reason))
	}
	if x.Drain != "" {
		if o.Drain, err = time.ParseDuration(x.Drain); err != nil || o.Drain < 0 || o.Drain > maxDrain {
			return o, fmt.Errorf(
				"drain %s: want a time with its unit from 0s to %v, as in 10s", shown(x.Drain), maxDrain,
			)
		}
	}
	return o, nil
}

// maxBody is more than any request needs, in bytes.
const maxBody = 4 << 10

// fromHere refuses requests from other origins. A page of another origin can send a form here
// without asking, so the origin decides. A client that sends neither Origin nor Sec-Fetch-Site is
// not a browser.
func fromHere(w http.ResponseWriter, r *http.Request) bool {
	err := http.NewCrossOriginProtection().Check(r)
	if err != nil {
		http.Error(
			w, "status: "+err.Error()+": do it from this page, or from outside a browser",
			http.StatusForbidden,
		)
	}
	return err == nil
}

var errContentType = errors.New("want application/json or application/x-www-form-urlencoded")

// example shows what a body looks like, in both forms: the remedy for one that cannot be read.
type example struct{ json, form string }

// readBody reads a body into a pointer to a struct with JSON tags, or from a form by fill.
func readBody(
	w http.ResponseWriter, r *http.Request, into any, fill func(url.Values) error, want example,
) error {
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if kind != "application/json" && kind != "application/x-www-form-urlencoded" {
		return fmt.Errorf("Content-Type %q: %w", r.Header.Get("Content-Type"), errContentType)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return fmt.Errorf("body: %w: want something like %s", err, want.json)
	}
	if kind == "application/json" {
		d := json.NewDecoder(bytes.NewReader(body))
		d.DisallowUnknownFields()
		if err := d.Decode(into); err != nil {
			return fmt.Errorf("body %s: %v: want something like %s", shown(string(body)), err, want.json)
		}
		if _, err := d.Token(); err != io.EOF {
			return fmt.Errorf(
				"body %s: goes on after its end: want something like %s", shown(string(body)), want.json,
			)
		}
		return nil
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return fmt.Errorf("body %s: %v: want something like %s", shown(string(body)), err, want.form)
	}
	return fill(form)
}

// refuse answers a change that was not understood or not made.
func refuse(w http.ResponseWriter, err error) {
	code := http.StatusBadRequest
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		code = http.StatusRequestEntityTooLarge
	} else if errors.Is(err, errContentType) {
		code = http.StatusUnsupportedMediaType
	}
	http.Error(w, "status: "+err.Error(), code)
}

// shown quotes what someone sent, shortened to a helpful length.
func shown(s string) string {
	if len(s) > 60 {
		s = s[:60] + "…"
	}
	return strconv.Quote(s)
}
