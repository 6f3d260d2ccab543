package balance

import (
	"strings"
	"testing"
)

// Each outcome reads back its own text, and no other text is taken.
func TestOutcomesReadTheirOwnText(t *testing.T) {
	for o := Done; int(o) < len(outcomeNames); o++ {
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
	if err := o.UnmarshalText([]byte("later")); err == nil || !strings.Contains(err.Error(), "unserved") {
		t.Errorf("%v: want the known ones", err)
	}
}

// So do the modes of abandoned requests.
func TestModesOfAbandonedRequestsReadTheirOwnText(t *testing.T) {
	for a := AbandonedTell; int(a) < len(abandonedNames); a++ {
		text, err := a.MarshalText()
		var back Abandoned
		if err != nil || string(text) != a.String() || back.UnmarshalText(text) != nil || back != a {
			t.Errorf("%v: text %q, %v, reads back as %v", a, text, err, back)
		}
		if err := (App{ID: "web", Abandoned: a}).Validate(); err != nil {
			t.Error(err)
		}
	}
	later := Abandoned(len(abandonedNames))
	if text, err := later.MarshalText(); err == nil {
		t.Errorf("a mode of a later version has the text %q", text)
	}
	var a Abandoned
	if err := a.UnmarshalText([]byte("drop")); err == nil || !strings.Contains(err.Error(), "finish") {
		t.Errorf("%v: want the known ones", err)
	}
	if err := (App{ID: "web", Abandoned: later}).Validate(); err == nil || !strings.Contains(err.Error(), "Abandoned") {
		t.Errorf("%v: want the field and the remedy", err)
	}
	if err := (App{ID: "web", AbandonedHold: -1}).Validate(); err == nil || !strings.Contains(err.Error(), "AbandonedHold") {
		t.Errorf("%v: want the field and the remedy", err)
	}
}
