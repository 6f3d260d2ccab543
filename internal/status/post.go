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
	"strconv"
)

// maxBody is more than any wish needs.
const maxBody = 4 << 10

// fromHere refuses wishes of other origins: a page from elsewhere can send a form here without asking, so the origin is what
// decides. Who sends neither Origin nor Sec-Fetch-Site is no browser.
func fromHere(w http.ResponseWriter, r *http.Request) bool {
	err := http.NewCrossOriginProtection().Check(r)
	if err != nil {
		http.Error(w, "status: "+err.Error()+": do it from this page, or from outside a browser", http.StatusForbidden)
	}
	return err == nil
}

var errContentType = errors.New("want application/json or application/x-www-form-urlencoded")

// example is what a wish looks like, in both forms: the remedy for a body that is none.
type example struct{ json, form string }

// readWish reads a body into wish, which is a pointer to a struct with JSON tags; from a form by fill.
func readWish(w http.ResponseWriter, r *http.Request, wish any, fill func(url.Values) error, want example) error {
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
		if err := d.Decode(wish); err != nil {
			return fmt.Errorf("body %s: %v: want something like %s", shown(string(body)), err, want.json)
		}
		if _, err := d.Token(); err != io.EOF {
			return fmt.Errorf("body %s: goes on after its end: want something like %s", shown(string(body)), want.json)
		}
		return nil
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return fmt.Errorf("body %s: %v: want something like %s", shown(string(body)), err, want.form)
	}
	return fill(form)
}

// refuse answers a wish that was not understood or not done.
func refuse(w http.ResponseWriter, err error) {
	code := http.StatusBadRequest
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		code = http.StatusRequestEntityTooLarge
	} else if errors.Is(err, errContentType) {
		code = http.StatusUnsupportedMediaType
	}
	http.Error(w, "status: "+err.Error(), code)
}

// shown quotes what someone sent, and not more of it than helps.
func shown(s string) string {
	if len(s) > 60 {
		s = s[:60] + "…"
	}
	return strconv.Quote(s)
}
