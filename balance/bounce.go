package balance

// Bounce is an owner's refusal of one try. A bounced request has not been executed.
type Bounce uint8

// The bounces. Admitted is none.
const (
	Admitted   Bounce = iota
	Full              // at the hard limit
	Closing           // on its way to sleep: do not come back before it has started again
	NotStarted        // stopped, starting, suspended or failed
	NotHere           // this node does not own the machine
	WrongEpoch        // the machine has been started again since the caller last heard of it
)

var bounceNames = [...]string{"admitted", "full", "closing", "stopped", "not-here", "wrong-epoch"}

// String returns the bounce's name as it travels between nodes.
func (b Bounce) String() string { return name(bounceNames[:], uint8(b), "bounce") }

// ParseBounce is the inverse of [Bounce.String]; ok is false for an unknown name.
func ParseBounce(s string) (b Bounce, ok bool) {
	for i, n := range bounceNames {
		if n == s {
			return Bounce(i), true
		}
	}
	return 0, false
}
