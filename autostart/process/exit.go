package process

import (
	"fmt"
	"time"
)

// ending is what is known of the end of a machine, besides its exit code and signal.
type ending struct {
	code    int    // -1 when a signal ended it
	signal  string // empty when it exited
	life    time.Duration
	asked   bool          // the driver was told to end it
	overdue time.Duration // > 0: it had not ended by itself so long after the stop signal
	memory  bool          // the system ran out of memory and killed it
	said    string        // the last line that it has printed
}

// youngest is the age below which the sentence mentions the age: a machine that ends so early has
// not started properly.
const youngest = 5 * time.Second

// reason is the sentence for people.
func (e ending) reason() string {
	s := fmt.Sprintf("exit status %d", e.code)
	if e.signal != "" {
		s = "killed by signal: " + e.signal
	}
	switch {
	case e.memory:
		s += " (out of memory)"
	case e.asked && e.overdue > 0:
		s += fmt.Sprintf(" (still there %v after it was asked to stop)", e.overdue)
	}
	if e.asked {
		return "stopped: " + s
	}
	if e.life < youngest {
		s += fmt.Sprintf(", %v after its start", e.life.Round(time.Millisecond))
	}
	if e.said != "" {
		s += ": " + e.said
	}
	return s
}
