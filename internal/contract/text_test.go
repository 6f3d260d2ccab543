package contract

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/ebbkit/ebb/backhaul"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale/cordon"
	"github.com/ebbkit/ebb/downscale/policy"
	"github.com/ebbkit/ebb/rtt"
)

// enums are all types whose values have names.
var enums = []any{
	new(
		balance.Autostop,
	), new(balance.State), new(balance.Health), new(balance.Cordon), new(balance.Tier),
	new(balance.StartAnswer), new(balance.Bounce), new(balance.Outcome),
	new(balance.Class), new(policy.Verdict), new(cordon.Act),
	new(rtt.State),
	new(backhaul.Failure), new(backhaul.EventKind), new(backhaul.Freed),
}

// Every value of an enum has a name of its own, which is its text and its JSON and is read back.
// What has no name is not written, and what is no name is not read: the error says what it wants.
func TestEnumsReadBackTheirOwnText(t *testing.T) {
	for _, e := range enums {
		v := reflect.ValueOf(e).Elem()
		kind := v.Type().String()
		names := map[string]bool{}
		for i := range 256 {
			v.SetUint(uint64(i))
			text, err := v.Interface().(encoding.TextMarshaler).MarshalText()
			if err != nil {
				if len(names) == 0 {
					t.Errorf("%s: the zero value has no name: %v", kind, err)
				}
				continue
			}
			name := string(text)
			if names[name] || name != v.Interface().(fmt.Stringer).String() {
				t.Errorf(
					"%s(%d) has the text %q: another value has it, or String says %v", kind, i, name,
					v.Interface(),
				)
			}
			names[name] = true
			asJSON, err := json.Marshal(v.Interface())
			back := reflect.New(v.Type())
			if err == nil {
				err = json.Unmarshal(asJSON, back.Interface())
			}
			if err != nil || back.Elem().Uint() != uint64(i) {
				t.Errorf("%s: %s reads back as %v: %v", kind, asJSON, back.Elem(), err)
			}
		}
		if len(names) < 2 || len(names) > 100 {
			t.Errorf("%s has %d names", kind, len(names))
		}
		v.SetUint(0)
		err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte("no-such-name"))
		if err == nil || !strings.Contains(err.Error(), "no-such-name") ||
			!strings.Contains(err.Error(), "want ") ||
			v.Uint() != 0 {
			t.Errorf("%s: reading what is no name: %v", kind, err)
		}
	}
}
