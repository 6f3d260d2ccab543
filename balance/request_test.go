package balance

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestForcedMeansForcedOrError(t *testing.T) {
	for name, s := range map[string]Strategy{"closest": nil, "leastload": LeastLoad{}, "pack": Pack{}, "draws": Closest{Choices: 2}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, s, Limits{Soft: 2, Hard: 2})
			for i := range 40 {
				w.put(
					MachineID(fmt.Sprintf("m%02d", i)), []string{"nrt", "hkg"}[i%2],
					func(m *Machine) { m.Revision = fmt.Sprint("v", i%4) },
				)
			}
			pick := func(r Request) string {
				r.App = "web"
				res, err := w.b.Pick(r)
				var none *NoMachineError
				if errors.As(err, &none) {
					return fmt.Sprintf("%d unwanted, %d full", none.Unwanted, none.Full)
				}
				w.held["all"] = append(w.held["all"], res)
				return string(res.Machine().ID) + " " + res.Machine().Region + " " + res.Machine().Revision
			}
			only := &Target{Machines: []MachineID{"m07"}}
			for i, c := range []struct {
				want Request
				ok   func(string) bool
			}{
				{Request{Force: only}, func(s string) bool { return s == "m07 hkg v3" }},
				{Request{Prefer: only}, func(s string) bool { return s == "m07 hkg v3" }},
				{Request{Force: only}, func(s string) bool { return s == "39 unwanted, 1 full" }},
				{Request{Prefer: only}, func(s string) bool { return strings.Contains(s, " nrt ") || name == "leastload" && s != "" }},
				{Request{Force: &Target{Regions: []string{"hkg"}}}, func(s string) bool { return strings.Contains(s, " hkg ") }},
				{Request{Force: &Target{Regions: []string{"xyz"}}}, func(s string) bool { return s == "40 unwanted, 0 full" }},
				{Request{Force: &Target{Revision: "v2"}}, func(s string) bool { return strings.HasSuffix(s, " v2") }},
				{Request{Force: &Target{Revision: "v2"}, Prefer: &Target{Regions: []string{"hkg"}}}, func(s string) bool { return strings.HasSuffix(s, "nrt v2") }},
				{Request{Force: &Target{Revision: "v2", Regions: []string{"hkg"}}}, func(s string) bool { return s == "40 unwanted, 0 full" }},
			} {
				if got := pick(c.want); !c.ok(got) {
					t.Errorf("row %d: %+v went to %q", i, c.want, got)
				}
			}
		})
	}
}

// Each outcome reads back its own text, and no other text is taken.
func TestOutcomesReadTheirOwnText(t *testing.T) {
	for o := OutcomeDone; int(o) < len(outcomeNames); o++ {
		text, err := o.MarshalText()
		var back Outcome
		if err != nil || string(text) != o.String() || back.UnmarshalText(text) != nil || back != o {
			t.Errorf("%v: text %q, %v, reads back as %v", o, text, err, back)
		}
	}
	if text, err := Outcome(len(outcomeNames)).MarshalText(); err == nil {
		t.Errorf("an outcome of a later version has the text %q", text)
	}
	var o Outcome
	if err := o.UnmarshalText([]byte("later")); err == nil ||
		!strings.Contains(err.Error(), "unserved") {
		t.Errorf("%v: want the known ones", err)
	}
}
