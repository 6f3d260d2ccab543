package backhaul

import (
	"fmt"
	"slices"
	"strings"
)

// word returns the name of a value.
func word(names []string, i uint8) string {
	if int(i) < len(names) {
		return names[i]
	}
	return "unknown"
}

// marshalWord is word for encoders: a value without a name is an error.
func marshalWord(kind string, names []string, i uint8) ([]byte, error) {
	if int(i) >= len(names) {
		return nil, fmt.Errorf("backhaul: %s(%d) has no name", kind, i)
	}
	return []byte(names[i]), nil
}

// unmarshalWord is the inverse of marshalWord.
func unmarshalWord[T ~uint8](v *T, kind string, names []string, text []byte) error {
	i := slices.Index(names, string(text))
	if i < 0 {
		return fmt.Errorf("backhaul: unknown %s %q: want one of %s", kind, text, strings.Join(names, ", "))
	}
	*v = T(i)
	return nil
}

// MarshalText returns the certainty in words.
func (c Certainty) MarshalText() ([]byte, error) {
	return marshalWord("certainty", certaintyNames[:], uint8(c))
}

// UnmarshalText is the inverse of [Certainty.MarshalText].
func (c *Certainty) UnmarshalText(text []byte) error {
	return unmarshalWord(c, "certainty", certaintyNames[:], text)
}

// MarshalText returns the failure's name.
func (f Failure) MarshalText() ([]byte, error) {
	return marshalWord("failure", failureNames[:], uint8(f))
}

// UnmarshalText is the inverse of [Failure.MarshalText].
func (f *Failure) UnmarshalText(text []byte) error {
	return unmarshalWord(f, "failure", failureNames[:], text)
}

// MarshalText returns the kind's name.
func (k StepKind) MarshalText() ([]byte, error) {
	return marshalWord("kind of step", stepNames[:], uint8(k))
}

// UnmarshalText is the inverse of [StepKind.MarshalText].
func (k *StepKind) UnmarshalText(text []byte) error {
	return unmarshalWord(k, "kind of step", stepNames[:], text)
}

// MarshalText returns the stall's name.
func (s Stall) MarshalText() ([]byte, error) {
	return marshalWord("stall", stallNames[:], uint8(s))
}

// UnmarshalText is the inverse of [Stall.MarshalText].
func (s *Stall) UnmarshalText(text []byte) error {
	return unmarshalWord(s, "stall", stallNames[:], text)
}

// MarshalText returns the way's name.
func (f Freed) MarshalText() ([]byte, error) {
	return marshalWord("way to be freed", freedNames[:], uint8(f))
}

// UnmarshalText is the inverse of [Freed.MarshalText].
func (f *Freed) UnmarshalText(text []byte) error {
	return unmarshalWord(f, "way to be freed", freedNames[:], text)
}
