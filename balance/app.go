package balance

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/ebbkit/ebb/internal/enum"
)

// Autostop says what happens to a machine that is not needed.
type Autostop uint8

// The autostop modes.
const (
	AutostopOff Autostop = iota // machines run until somebody stops them
	// a machine that is not needed is stopped; its next start is a cold boot
	AutostopStop
	// it is suspended with its memory; if the driver refuses, it is stopped
	AutostopSuspend
)

var autostopNames = [...]string{"off", "stop", "suspend"}

// String returns the mode's name as flags and JSON spell it.
func (a Autostop) String() string { return enum.String(autostopNames[:], uint8(a), "autostop") }

// MarshalText returns the autostop mode's name; a value without one is an error.
func (a Autostop) MarshalText() ([]byte, error) {
	return enum.Marshal("balance: autostop mode", autostopNames[:], uint8(a))
}

// UnmarshalText is the inverse of [Autostop.MarshalText]; the error lists the names.
func (a *Autostop) UnmarshalText(text []byte) error {
	return enum.Unmarshal(a, "balance: autostop mode", autostopNames[:], text)
}

// App holds the settings of one app. It is a plain row; the comment on each field names the package
// that reads it. The zero value of every field but ID is valid: autostart and autostop off, no
// bounds, no limits.
type App struct {
	ID AppID

	// Autostart lets requests start machines. (autostart)
	Autostart bool
	// Autostop says what happens to machines that are not needed. (downscale)
	Autostop Autostop
	// Min is the number of machines kept started or starting, over all regions; the first of the
	// canonical order are kept. It starts machines when Autostart is on. (autostart, downscale)
	Min int
	// Max bounds the machines started or starting, over all regions; 0 means as many as there are.
	// (autostart)
	Max int
	// MinPerRegion is like Min within each region that has machines of the app. (autostart, downscale)
	MinPerRegion int
	// Spare is the number of machines kept beyond those that the load fills, as long as there is
	// load, so that a burst finds one running. (autostart, downscale)
	Spare int
	// Regions lists the home regions in order of preference; demand counts towards the first. Empty
	// means the region nearest to each edge. (autostart)
	Regions []string
	// Limits are the app's defaults; a machine's own Limits apply where they are not zero.
	// (balance, autostart)
	Limits Limits
	// BootHint is how long a start is expected to take; it counts as one observed boot. 0 means
	// unknown. (autostart)
	BootHint time.Duration
	// KeepAlive is how long an app without requests keeps its machines above Min; 0 means
	// downscale's default. (downscale)
	KeepAlive time.Duration
	// IdleAfter is how long a long connection (WebSocket, event stream, gRPC stream, other upgrades)
	// may carry no data before it counts as idle: an idle one does not keep its machine running, and
	// is told to end before the machine stops. 0 means never. (downscale)
	IdleAfter time.Duration
	// RestartAfter is how long a machine's checks may fail until it is stopped and started again; 0
	// means 30 s, as long as Kubernetes takes by default; negative never. (autostart)
	RestartAfter time.Duration
	// SlowStart is how long a machine that has just started takes less than its soft limit,
	// beginning at a tenth of it; 0 means that it takes its full share at once. Of the requests
	// that wait for its start it takes a quarter of its limit at once, half after half of that
	// time, and all at its end, give or take 100 ms: otherwise an app may collapse under the first
	// wave. (balance, autostart)
	SlowStart time.Duration
	// BodyPause is how long a client may pause while a machine waits for its body; then the request
	// is answered with 408. The same happens if less than 240 bytes per second arrive within one
	// BodyPause: otherwise an occasional byte would hold a slot. Time in which the machine does not
	// read is not a pause, nor is the silence of a client whose gRPC call or answer is under way. 0
	// means 60 s, what common servers allow; negative means no bound, for bodies that are sparse
	// streams. (backhaul)
	BodyPause time.Duration
	// AnswerPause is how long a client may read nothing of an answer that waits for it; then the
	// request is cut off and its slot is free. 0 means 6 h: people pause a download or a video for
	// a meal or a meeting and expect it to continue, and a machine without a hard limit loses
	// little by that. A machine that takes few requests at a time, such as a GPU, needs minutes
	// instead. Negative means no bound. (backhaul)
	AnswerPause time.Duration
	// UpgradeWait is how long a request for an upgrade may wait for the machine's 101; then it is
	// answered with 504. 0 means 60 s; negative means no bound. (backhaul)
	UpgradeWait time.Duration
	// FinishAbandoned makes the machine finish requests whose clients have left before it answered:
	// it is told nothing, and its answer is read and dropped. A hard limit then holds for what the
	// app executes, whatever its clients do. Without it the sending half of the connection to the
	// machine is closed, which ends the work of apps that listen for it. In either case the slot is
	// held until the machine is done, as far as that can be known; package backhaul has the table.
	// (backhaul)
	FinishAbandoned bool
	// AbandonedHold is how long the slot of such a request is held if the machine does not say that
	// it is done. 0 means learned: if the machine has closed the connection without an answer, the
	// 99th percentile of the app's service times, from 1 s to 60 s; if it is silent, 60 s.
	// (backhaul)
	AbandonedHold time.Duration
	// Strategy overrides the balancer's; nil means the balancer's own. (balance)
	Strategy Strategy
}

// validate returns an error that names the first field whose value makes no sense, or nil.
func (a App) validate() error {
	bad := func(field string, v any, want string) error {
		return fmt.Errorf("balance: app %q: %s %v: want %s", a.ID, field, v, want)
	}
	switch {
	case a.ID == "":
		return fmt.Errorf("balance: app without an ID: set App.ID")
	case a.Autostop > AutostopSuspend:
		return bad("Autostop", a.Autostop, "off, stop or suspend")
	case a.Min < 0:
		return bad("Min", a.Min, "0 or more")
	case a.Max < 0:
		return bad("Max", a.Max, "0 (no bound) or more")
	case a.MinPerRegion < 0:
		return bad("MinPerRegion", a.MinPerRegion, "0 or more")
	case a.Spare < 0:
		return bad("Spare", a.Spare, "0 or more")
	case a.Max > 0 && a.Min > a.Max:
		return bad("Min", a.Min, fmt.Sprintf("at most Max, which is %d", a.Max))
	case a.Max > 0 && a.MinPerRegion > a.Max:
		return bad("MinPerRegion", a.MinPerRegion, fmt.Sprintf("at most Max, which is %d", a.Max))
	case a.BootHint < 0:
		return bad("BootHint", a.BootHint, "0 (unknown) or more")
	case a.IdleAfter < 0:
		return bad("IdleAfter", a.IdleAfter, "0 (never) or more")
	case a.KeepAlive < 0:
		return bad("KeepAlive", a.KeepAlive, "0 (the default) or more")
	case a.SlowStart < 0:
		return bad("SlowStart", a.SlowStart, "0 (off) or more")
	case a.AbandonedHold < 0:
		return bad("AbandonedHold", a.AbandonedHold, "0 (learned) or more")
	}
	if err := a.Limits.validate(); err != nil {
		return fmt.Errorf("balance: app %q: %w", a.ID, err)
	}
	return nil
}

// LimitsOf returns the limits that apply to m: its own where set, else the app's.
func (a App) LimitsOf(m Machine) Limits {
	return Limits{
		Soft: cmp.Or(m.Limits.Soft, a.Limits.Soft), Hard: cmp.Or(m.Limits.Hard, a.Limits.Hard),
	}
}

// MarshalJSON writes the fields that are not zero: durations as in "30s", enums by name, a strategy
// by name, such as "pack", or with its fields, such as {"closest": {"SpillAt": 0.8}}. A custom
// strategy has no JSON form and is an error.
func (a App) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for f, v := range appFields(&a) {
		if v.IsZero() {
			continue
		}
		of := v.Interface()
		switch x := of.(type) {
		case time.Duration:
			of = x.String()
		case Strategy:
			s, err := strategyJSON(x)
			if err != nil {
				return nil, fmt.Errorf("balance: app %q: %w", a.ID, err)
			}
			of = s
		}
		text, err := json.Marshal(of)
		if err != nil {
			return nil, fmt.Errorf("balance: app %q: App.%s: %w", a.ID, f, err)
		}
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = append(append(strconv.AppendQuote(b, f), ':'), text...)
	}
	return append(b, '}'), nil
}

// UnmarshalJSON reads what [App.MarshalJSON] writes. Durations may also be whole numbers of
// nanoseconds, and field names may be in any case, as in encoding/json. Missing fields keep their
// values, and unknown ones are ignored. The error names the field, its value and what is wanted.
// [Fleet.Apply] checks whether the values make sense.
func (a *App) UnmarshalJSON(text []byte) error {
	var given map[string]json.RawMessage
	if err := json.Unmarshal(text, &given); err != nil {
		return fmt.Errorf("balance: App %s: want an object such as {\"ID\": \"web\"}", excerpt(text))
	}
	next := *a
	for f, v := range appFields(&next) {
		for name, raw := range given {
			if !strings.EqualFold(name, f) || string(raw) == "null" {
				continue
			}
			if err := setJSON(v, raw); err != nil {
				return fmt.Errorf("balance: App.%s %s: %w", f, excerpt(raw), err)
			}
		}
	}
	*a = next
	return nil
}

// appFields returns the fields of a by name, in their order.
func appFields(a *App) func(func(string, reflect.Value) bool) {
	return func(yield func(string, reflect.Value) bool) {
		v := reflect.ValueOf(a).Elem()
		for i := range v.NumField() {
			if !yield(v.Type().Field(i).Name, v.Field(i)) {
				return
			}
		}
	}
}

// setJSON sets a field of an App; the error says what it wants.
func setJSON(v reflect.Value, raw json.RawMessage) error {
	switch x := v.Addr().Interface().(type) {
	case *time.Duration:
		d, err := durationJSON(raw)
		if err != nil {
			return err
		}
		*x = d
		return nil
	case *Strategy:
		s, err := parseStrategy(raw)
		if err != nil {
			return err
		}
		*x = s
		return nil
	case interface{ UnmarshalText([]byte) error }:
		var name string
		if err := json.Unmarshal(raw, &name); err != nil {
			return fmt.Errorf("want a name in quotes")
		}
		return x.UnmarshalText([]byte(name))
	}
	if json.Unmarshal(raw, v.Addr().Interface()) == nil {
		return nil
	}
	switch v.Kind() {
	case reflect.Bool:
		return fmt.Errorf("want true or false")
	case reflect.String:
		return fmt.Errorf("want a text in quotes")
	case reflect.Int:
		return fmt.Errorf("want a whole number")
	case reflect.Slice:
		return fmt.Errorf(`want a list, such as ["nrt", "fra"]`)
	case reflect.Struct:
		return fmt.Errorf(`want an object of whole numbers, such as {"Soft": 20, "Hard": 50}`)
	}
	return fmt.Errorf("want a %v", v.Type())
}

func durationJSON(raw json.RawMessage) (time.Duration, error) {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		if d, err := time.ParseDuration(text); err == nil {
			return d, nil
		}
	}
	var n int64
	if json.Unmarshal(raw, &n) == nil {
		return time.Duration(n), nil
	}
	return 0, fmt.Errorf(`want a time with its unit, such as "30s" or "5m"`)
}

// strategies are those that have a JSON form, by name: the name alone if every field is zero, else
// an object whose one field has that name, such as {"closest": {"SpillAt": 0.8}}.
var strategies = []struct {
	name string
	make func() any // a pointer to a zero one
}{
	{"closest", func() any { return &Closest{} }},
	{"leastload", func() any { return &LeastLoad{} }},
	{"pack", func() any { return &Pack{} }},
}

// namedStrategy returns the strategy of that name: "closest", "leastload" or "pack".
func namedStrategy(name string) (Strategy, error) {
	for _, s := range strategies {
		if s.name == name {
			return reflect.ValueOf(s.make()).Elem().Interface().(Strategy), nil
		}
	}
	return nil, fmt.Errorf("balance: strategy %q: %s", name, wantStrategy())
}

func wantStrategy() string {
	var names []string
	for _, s := range strategies {
		names = append(names, s.name)
	}
	return "want " + enum.Or(names)
}

func strategyJSON(of Strategy) (any, error) {
	for _, s := range strategies {
		if reflect.TypeOf(s.make()).Elem() != reflect.TypeOf(of) {
			continue
		}
		if reflect.ValueOf(of).IsZero() {
			return s.name, nil
		}
		return map[string]any{s.name: of}, nil
	}
	return nil, fmt.Errorf(
		"App.Strategy %T has no form in JSON: %s, or set it in the program", of, wantStrategy(),
	)
}

func parseStrategy(raw json.RawMessage) (Strategy, error) {
	var name string
	if json.Unmarshal(raw, &name) == nil {
		if s, err := namedStrategy(name); err == nil {
			return s, nil
		}
	}
	var object map[string]json.RawMessage
	if json.Unmarshal(raw, &object) == nil && len(object) == 1 {
		for _, s := range strategies {
			if fields, ok := object[s.name]; ok {
				v := s.make()
				d := json.NewDecoder(bytes.NewReader(fields))
				d.DisallowUnknownFields()
				if err := d.Decode(v); err != nil {
					return nil, fmt.Errorf(
						"want the fields of %T in the object: %w", reflect.ValueOf(v).Elem().Interface(), err,
					)
				}
				return reflect.ValueOf(v).Elem().Interface().(Strategy), nil
			}
		}
	}
	return nil, fmt.Errorf(`%s, or an object such as {"closest": {"SpillAt": 0.8}}`, wantStrategy())
}

// excerpt is what an error shows of bad input.
func excerpt(b []byte) string {
	const most = 60
	if len(b) > most {
		return string(b[:most]) + "..."
	}
	return string(b)
}
