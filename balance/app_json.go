package balance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/ebbkit/ebb/internal/enum"
)

// MarshalJSON writes the fields that are not zero: durations as in "30s", enums by name, a strategy
// by name, such as "pack", or with its fields, such as {"closest": {"SpillAt": 0.8}}. A strategy of
// your own has no such form, and is an error.
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

// UnmarshalJSON reads what [App.MarshalJSON] writes; durations may also be whole numbers of
// nanoseconds, and names of fields may be in any case, as encoding/json has it. Fields that are not
// there stay as they are, and those that App does not have are passed over. The error names the
// field, its value and what it wants. It does not look at what the values mean: the fleet does.
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

// strategies are those that have a form in JSON, by name: themselves where everything is zero, else
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
	return nil, fmt.Errorf("App.Strategy %T has no form in JSON: %s, or set it in the program", of, wantStrategy())
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
					return nil, fmt.Errorf("want the fields of %T in the object: %w", reflect.ValueOf(v).Elem().Interface(), err)
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
