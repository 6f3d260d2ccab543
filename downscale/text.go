package downscale

import (
	"fmt"

	"github.com/ebbkit/ebb/internal/enum"
)

// The text forms of enums: their names, in JSON, flags and logs alike. Each reads back what it writes.

// MarshalText returns the preset's name; a value without one is an error.
func (p Preset) MarshalText() ([]byte, error) {
	return enum.Marshal("downscale: preset", presetNames[:], uint8(p))
}

// UnmarshalText is the inverse of [Preset.MarshalText]; the error lists the names.
func (p *Preset) UnmarshalText(text []byte) error {
	return enum.Unmarshal(p, "downscale: preset", presetNames[:], text)
}

// MarshalText returns the verdict's name; a value without one is an error.
func (v Verdict) MarshalText() ([]byte, error) {
	return enum.Marshal("downscale: verdict", verdictNames[:], uint8(v))
}

// UnmarshalText is the inverse of [Verdict.MarshalText]; the error lists the names.
func (v *Verdict) UnmarshalText(text []byte) error {
	return enum.Unmarshal(v, "downscale: verdict", verdictNames[:], text)
}

// MarshalText returns the rule's name; a value without one is an error.
func (w Why) MarshalText() ([]byte, error) {
	return enum.Marshal("downscale: rule", whyNames[:], uint8(w))
}

// UnmarshalText is the inverse of [Why.MarshalText]; the error lists the names.
func (w *Why) UnmarshalText(text []byte) error {
	return enum.Unmarshal(w, "downscale: rule", whyNames[:], text)
}

func name(names []string, i uint8, kind string) string {
	if int(i) < len(names) {
		return names[i]
	}
	return fmt.Sprintf("%s(%d)", kind, i)
}
