package rtt

import (
	"testing"

	"github.com/ebbkit/ebb/rtt/internal/estimate"
)

func TestValuesAreThoseOfTheEstimator(t *testing.T) {
	for want, got := range map[Source]estimate.Source{
		SourceNone: estimate.SourceNone, SourceUDP: estimate.SourceUDP, SourceTCP: estimate.SourceTCP,
		SourceHTTP: estimate.SourceHTTP, SourcePassive: estimate.SourcePassive,
	} {
		if Source(got) != want {
			t.Errorf("source %v is %d there", want, got)
		}
	}
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
		f            Fraction
		value, lower float64
	}{{Fraction{}, 0, 0}, {Fraction{0, 100}, 0, 0}, {Fraction{1, 1}, 1, 0.206}, {Fraction{10, 100}, 0.1, 0.0552}, {Fraction{300, 300}, 1, 0.987}} {
		if v, l := row.f.Value(), row.f.Lower(); v != row.value || l < row.lower-0.001 ||
			l > row.lower+0.001 {
			t.Errorf("%v: value %v, lower %v; want %v, %v", row.f, v, l, row.value, row.lower)
		}
	}
}

func TestNames(t *testing.T) {
	for _, row := range []struct{ got, want string }{
		{SourceTCP.String(), "tcp"}, {StateLost.String(), "lost"},
		{Source(99).String(), "source(99)"}, {State(4).String(), "state(4)"},
	} {
		if row.got != row.want {
			t.Errorf("%q, want %q", row.got, row.want)
		}
	}
}
