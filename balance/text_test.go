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
