package backhaul

import "github.com/ebbkit/ebb/internal/enum"

// MarshalText returns the certainty in words.
func (c Certainty) MarshalText() ([]byte, error) {
	return enum.Marshal("backhaul: certainty", certaintyNames[:], uint8(c))
}

// UnmarshalText is the inverse of [Certainty.MarshalText].
func (c *Certainty) UnmarshalText(text []byte) error {
	return enum.Unmarshal(c, "backhaul: certainty", certaintyNames[:], text)
}

// MarshalText returns the failure's name.
func (f Failure) MarshalText() ([]byte, error) {
	return enum.Marshal("backhaul: failure", failureNames[:], uint8(f))
}

// UnmarshalText is the inverse of [Failure.MarshalText].
func (f *Failure) UnmarshalText(text []byte) error {
	return enum.Unmarshal(f, "backhaul: failure", failureNames[:], text)
}

// MarshalText returns the kind's name.
func (k StepKind) MarshalText() ([]byte, error) {
	return enum.Marshal("backhaul: kind of step", stepNames[:], uint8(k))
}

// UnmarshalText is the inverse of [StepKind.MarshalText].
func (k *StepKind) UnmarshalText(text []byte) error {
	return enum.Unmarshal(k, "backhaul: kind of step", stepNames[:], text)
}

// MarshalText returns the stall's name.
func (s Stall) MarshalText() ([]byte, error) {
	return enum.Marshal("backhaul: stall", stallNames[:], uint8(s))
}

// UnmarshalText is the inverse of [Stall.MarshalText].
func (s *Stall) UnmarshalText(text []byte) error {
	return enum.Unmarshal(s, "backhaul: stall", stallNames[:], text)
}

// MarshalText returns the way's name.
func (f Freed) MarshalText() ([]byte, error) {
	return enum.Marshal("backhaul: way to be freed", freedNames[:], uint8(f))
}

// UnmarshalText is the inverse of [Freed.MarshalText].
func (f *Freed) UnmarshalText(text []byte) error {
	return enum.Unmarshal(f, "backhaul: way to be freed", freedNames[:], text)
}
