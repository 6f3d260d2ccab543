package rtt

import "github.com/ebbkit/ebb/internal/enum"

// The text forms of enums: their names, in JSON, flags and logs alike. Each reads back what it writes.

// MarshalText returns the source's name; a value without one is an error.
func (s Source) MarshalText() ([]byte, error) {
	return enum.Marshal("rtt: source", sourceNames[:], uint8(s))
}

// UnmarshalText is the inverse of [Source.MarshalText]; the error lists the names.
func (s *Source) UnmarshalText(text []byte) error {
	return enum.Unmarshal(s, "rtt: source", sourceNames[:], text)
}

// MarshalText returns the state's name; a value without one is an error.
func (s State) MarshalText() ([]byte, error) {
	return enum.Marshal("rtt: state", stateNames[:], uint8(s))
}

// UnmarshalText is the inverse of [State.MarshalText]; the error lists the names.
func (s *State) UnmarshalText(text []byte) error {
	return enum.Unmarshal(s, "rtt: state", stateNames[:], text)
}
