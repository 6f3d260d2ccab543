package balance

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// An app reads back its own JSON, whichever of its fields are set.
func TestAppReadsItsOwnJSON(t *testing.T) {
	full := App{ID: "web"}
	v := reflect.ValueOf(&full).Elem()
	for i := range v.NumField() { // also those that are added later
		switch f := v.Field(i); f.Interface().(type) {
		case time.Duration:
			f.SetInt(int64(time.Duration(i) * 1500 * time.Millisecond))
		case []string:
			f.Set(reflect.ValueOf([]string{"nrt", "fra"}))
		case Limits:
			f.Set(reflect.ValueOf(Limits{Soft: 3, Hard: 7}))
		case Strategy, nil:
			f.Set(reflect.ValueOf(Closest{Choices: 2, SpillAt: -1}))
		default:
			switch f.Kind() {
			case reflect.Bool:
				f.SetBool(true)
			case reflect.Int:
				f.SetInt(int64(i))
			case reflect.Uint8:
				f.SetUint(1)
			}
		}
		if v.Field(i).IsZero() {
			t.Errorf("the test does not set App.%s", v.Type().Field(i).Name)
		}
	}
	for _, a := range []App{{}, {ID: "web"}, full, {ID: "a", Strategy: Closest{}}, {ID: "a", Strategy: LeastLoad{}}, {ID: "a", Strategy: LeastLoad{Choices: 3}}, {ID: "a", Strategy: Pack{}}} {
		text, err := json.Marshal(a)
		var back App
		if err == nil {
			err = json.Unmarshal(text, &back)
		}
		if d := cmp.Diff(a, back); err != nil || d != "" {
			t.Errorf("%s: %v (-want +got):\n%s", text, err, d)
		}
	}
}

func TestAppFromJSON(t *testing.T) {
	var a App
	text := `{"ID": "web", "autostart": true, "Autostop": "suspend", "KeepAlive": "90s", "BootHint": 2000000000,
		"Limits": {"Soft": 20}, "Strategy": "pack", "Regions": null, "Colour": "red"}`
	if err := json.Unmarshal([]byte(text), &a); err != nil {
		t.Fatal(err)
	}
	want := App{
		ID: "web", Autostart: true, Autostop: AutostopSuspend, KeepAlive: 90 * time.Second,
		BootHint: 2 * time.Second, Limits: Limits{Soft: 20}, Strategy: Pack{},
	}
	if d := cmp.Diff(want, a); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	for text, says := range map[string]string{
		`{"Autostop": "sleep"}`:                        `App.Autostop "sleep": balance: autostop mode "sleep": want off, stop or suspend`,
		`{"Autostop": 1}`:                              `App.Autostop 1: want a name in quotes`,
		`{"Autostart": "yes"}`:                         `App.Autostart "yes": want true or false`,
		`{"KeepAlive": "30"}`:                          `App.KeepAlive "30": want a time with its unit, such as "30s" or "5m"`,
		`{"KeepAlive": 1.5}`:                           `App.KeepAlive 1.5: want a time`,
		`{"Min": "2"}`:                                 `App.Min "2": want a whole number`,
		`{"ID": 7}`:                                    `App.ID 7: want a text in quotes`,
		`{"Regions": "nrt"}`:                           `App.Regions "nrt": want a list, such as ["nrt", "fra"]`,
		`{"Limits": {"Soft": "x"}}`:                    `App.Limits {"Soft": "x"}: want an object`,
		`{"Strategy": "nearest"}`:                      `App.Strategy "nearest": want closest, leastload or pack, or an object`,
		`{"Strategy": {"closest": {"SpilAt": 1}}}`:     `App.Strategy {"closest": {"SpilAt": 1}}: want the fields of balance.Closest`,
		`{"Strategy": {"closest": {}, "pack": {}}}`:    `want closest, leastload or pack`,
		`["web"]`:                                      `App ["web"]: want an object`,
		`{"Min": "` + strings.Repeat("9", 1000) + `"}`: `99...: want a whole number`,
	} {
		was := App{ID: "kept", Min: 3}
		a := was
		err := json.Unmarshal([]byte(text), &a)
		if err == nil || !strings.Contains(err.Error(), says) || len(err.Error()) > 300 {
			t.Errorf("%.60s: %v, want %q", text, err, says)
		}
		if !cmp.Equal(was, a) {
			t.Errorf("%.60s: an app that could not be read was changed", text)
		}
	}
	own := StrategyFunc(func(*View, Request) (Slot, bool) { return Slot{}, false })
	if _, err := json.Marshal(App{ID: "web", Strategy: own}); err == nil ||
		!strings.Contains(err.Error(), "App.Strategy balance.StrategyFunc has no form in JSON") {
		t.Errorf("a strategy of one's own: %v", err)
	}
}

func FuzzAppJSON(f *testing.F) {
	f.Add(`{"ID": "web", "KeepAlive": "90s", "Strategy": {"closest": {"Choices": 2}}}`)
	f.Fuzz(func(t *testing.T, text string) {
		var a, back App
		if json.Unmarshal([]byte(text), &a) != nil {
			return
		}
		out, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(out, &back); err != nil || !cmp.Equal(a, back) && len(a.Regions) > 0 {
			t.Fatalf("%q became %s: %v", text, out, err)
		}
	})
}
