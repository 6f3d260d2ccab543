package backhaul

import (
	"github.com/ebbkit/ebb/internal/enum"
)

// MarshalText returns the kind's name.
func (k StepKind) MarshalText() ([]byte, error) {
	return enum.Marshal("backhaul: kind of step", stepNames[:], uint8(k))
}

// UnmarshalText is the inverse of [StepKind.MarshalText].
func (k *StepKind) UnmarshalText(text []byte) error {
	return enum.Unmarshal(k, "backhaul: kind of step", stepNames[:], text)
}
