package status

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Stops is what a [Source] also implements when people may stop its machines, for maintenance. It is called concurrently.
type Stops interface {
	// StopMachine stops a machine that runs and returns when it has. The error matches [ErrNoMachine] for one that is not
	// there and [ErrRunsOn] for one that could not be stopped. When ctx ends before anything could not be undone, nothing is.
	StopMachine(ctx context.Context, machine string, o Order) error
}

// Order says how a machine is to be stopped.
type Order struct {
	Reason  string
	Suspend bool          // rather than stop
	Drain   time.Duration // how long what is in flight may take behind the closed gate; 0: only when nothing is
}

// What a source says when a machine is not stopped.
var (
	ErrNoMachine = errors.New("no such machine")
	ErrRunsOn    = errors.New("the machine runs on")
)

// maxDrain bounds what can be waited for: longer is a mistyped unit.
const maxDrain = time.Hour

// stopped is the answer to a stop that was done.
type stopped struct {
	Machine string  `json:"machine"`
	MS      float64 `json:"took_ms"`
}

// stopMachine serves POST /stop with {machine, drain, suspend, reason} as JSON or as a form; all but the machine may be left
// out. It answers when the machine has stopped (200) or runs on (409).
func stopMachine(w http.ResponseWriter, r *http.Request, src Source) {
	if !fromHere(w, r) {
		return
	}
	door, ok := src.(Stops)
	if !ok {
		http.Error(w, "status: machines cannot be stopped from here", http.StatusNotFound)
		return
	}
	var x stopWish
	err := readWish(w, r, &x, x.fill, example{`{"machine": "nrt-1", "drain": "10s"}`, "machine=nrt-1&drain=10s"})
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
		http.Error(w, fmt.Sprintf("status: machine %s: %v: GET /status.json lists them", shown(x.Machine), err), http.StatusNotFound)
	case errors.Is(err, ErrRunsOn):
		http.Error(w, "status: "+err.Error()+": give what is in flight time to end, as in drain=10s, to stop it all the same", http.StatusConflict)
	default:
		http.Error(w, "status: "+err.Error(), http.StatusInternalServerError)
	}
}

// stopWish is a wish, as it was written.
type stopWish struct {
	Machine string `json:"machine"`
	Drain   string `json:"drain"`
	Suspend bool   `json:"suspend"`
	Reason  string `json:"reason"`
}

// fill reads the wish from a form.
func (x *stopWish) fill(form url.Values) (err error) {
	*x = stopWish{Machine: form.Get("machine"), Drain: form.Get("drain"), Reason: form.Get("reason")}
	if s := form.Get("suspend"); s != "" {
		if x.Suspend, err = strconv.ParseBool(s); err != nil {
			return fmt.Errorf("suspend %s: want true or false", shown(s))
		}
	}
	return nil
}

func (x *stopWish) order() (o Order, err error) {
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
			return o, fmt.Errorf("drain %s: want a time with its unit from 0s to %v, as in 10s", shown(x.Drain), maxDrain)
		}
	}
	return o, nil
}
