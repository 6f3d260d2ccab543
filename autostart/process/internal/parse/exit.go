package parse

import (
	"fmt"
	"time"
)

// Ending is what is known of the end of a machine, besides its exit code and signal.
type Ending struct {
	Code    int    // -1 when a signal ended it
	Signal  string // empty when it exited
	Life    time.Duration
	Asked   bool          // the driver was told to end it
	Overdue time.Duration // > 0: how long after the stop signal it still had not ended by itself
	Memory  bool          // the system ran out of memory and killed it
	Said    string        // the last line that it has printed
}

// youngest is the age below which the reason mentions the age: a machine that ends so early has not
// started properly.
const youngest = 5 * time.Second

// Reason returns how the machine ended, as a sentence for people.
func (e Ending) Reason() string {
	s := fmt.Sprintf("exit status %d", e.Code)
	if e.Signal != "" {
		s = "killed by signal: " + e.Signal
	}
	switch {
	case e.Memory:
		s += " (out of memory)"
	case e.Asked && e.Overdue > 0:
		s += fmt.Sprintf(" (still there %v after it was asked to stop)", e.Overdue)
	}
	if e.Asked {
		return "stopped: " + s
	}
	if e.Life < youngest {
		s += fmt.Sprintf(", %v after its start", e.Life.Round(time.Millisecond))
	}
	if e.Said != "" {
		s += ": " + e.Said
	}
	return s
}
