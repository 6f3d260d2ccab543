package rtt

import (
	"testing"

	"github.com/ebbkit/ebb/rtt/internal/estimate"
)

func TestValuesAreThoseOfTheEstimator(t *testing.T) {
	for want, got := range map[State]estimate.State{
		StateUnknown: estimate.StateUnknown, StateFresh: estimate.StateFresh,
		StateStale: estimate.StateStale, StateLost: estimate.StateLost,
	} {
		if State(got) != want {
			t.Errorf("state %v is %d there", want, got)
		}
	}
}

func TestFraction(t *testing.T) {
	for _, row := range []struct {
		f     Fraction
		value float64
	}{{Fraction{}, 0}, {Fraction{0, 100}, 0}, {Fraction{1, 1}, 1}, {Fraction{10, 100}, 0.1}, {Fraction{9, 3}, 1}} {
		if v := row.f.Value(); v != row.value {
			t.Errorf("%v: value %v, want %v", row.f, v, row.value)
		}
	}
}

func TestNames(t *testing.T) {
	for _, row := range []struct{ got, want string }{
		{sources[estimate.SourcePassive], "passive"}, {sources[estimate.SourceNone], ""},
		{StateLost.String(), "lost"}, {State(4).String(), "state(4)"},
	} {
		if row.got != row.want {
			t.Errorf("%q, want %q", row.got, row.want)
		}
	}
}
