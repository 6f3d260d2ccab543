package balance

import "github.com/ebbkit/ebb/internal/enum"

// The text forms of enums: their names, in JSON, flags and logs alike. Each reads back what it writes.

// MarshalText returns the autostop mode's name; a value without one is an error.
func (a Autostop) MarshalText() ([]byte, error) {
	return enum.Marshal("balance: autostop mode", autostopNames[:], uint8(a))
}

// UnmarshalText is the inverse of [Autostop.MarshalText]; the error lists the names.
func (a *Autostop) UnmarshalText(text []byte) error {
	return enum.Unmarshal(a, "balance: autostop mode", autostopNames[:], text)
}

// MarshalText returns the state's name; a value without one is an error.
func (s State) MarshalText() ([]byte, error) {
	return enum.Marshal("balance: state", stateNames[:], uint8(s))
}

// UnmarshalText is the inverse of [State.MarshalText]; the error lists the names.
func (s *State) UnmarshalText(text []byte) error {
	return enum.Unmarshal(s, "balance: state", stateNames[:], text)
}

// MarshalText returns the health's name; a value without one is an error.
func (h Health) MarshalText() ([]byte, error) {
	return enum.Marshal("balance: health", healthNames[:], uint8(h))
}

// UnmarshalText is the inverse of [Health.MarshalText]; the error lists the names.
func (h *Health) UnmarshalText(text []byte) error {
	return enum.Unmarshal(h, "balance: health", healthNames[:], text)
}

// MarshalText returns the cordon's name; a value without one is an error.
func (c Cordon) MarshalText() ([]byte, error) {
	return enum.Marshal("balance: cordon", cordonNames[:], uint8(c))
}

// UnmarshalText is the inverse of [Cordon.MarshalText]; the error lists the names.
func (c *Cordon) UnmarshalText(text []byte) error {
	return enum.Unmarshal(c, "balance: cordon", cordonNames[:], text)
}

// MarshalText returns the tier's name; a value without one is an error.
func (t Tier) MarshalText() ([]byte, error) {
	return enum.Marshal("balance: tier", tierNames[:], uint8(t))
}

// UnmarshalText is the inverse of [Tier.MarshalText]; the error lists the names.
func (t *Tier) UnmarshalText(text []byte) error {
	return enum.Unmarshal(t, "balance: tier", tierNames[:], text)
}

// MarshalText returns the answer's name; a value without one is an error.
func (a StartAnswer) MarshalText() ([]byte, error) {
	return enum.Marshal("balance: answer", startAnswerNames[:], uint8(a))
}

// UnmarshalText is the inverse of [StartAnswer.MarshalText]; the error lists the names.
func (a *StartAnswer) UnmarshalText(text []byte) error {
	return enum.Unmarshal(a, "balance: answer", startAnswerNames[:], text)
}

// MarshalText returns the bounce's name; a value without one is an error.
func (b Bounce) MarshalText() ([]byte, error) {
	return enum.Marshal("balance: bounce", bounceNames[:], uint8(b))
}

// UnmarshalText is the inverse of [Bounce.MarshalText]; the error lists the names.
func (b *Bounce) UnmarshalText(text []byte) error {
	return enum.Unmarshal(b, "balance: bounce", bounceNames[:], text)
}
