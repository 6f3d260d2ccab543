package policy

import (
	"time"

	"github.com/ebbkit/ebb/autostart/internal/boots"
	"github.com/ebbkit/ebb/balance"
)

const (
	// newsFor is how long news of a stop may take: for so long a machine that stops is asked in its
	// place of the order, whatever is known, since other nodes do not know of the stop yet, or know
	// already that it is over.
	newsFor = 500 * time.Millisecond
	// bootGuess is what another machine's boot is taken for where none is known, when a stop is
	// compared with it.
	bootGuess = time.Second
	// stopUnknown bounds a stop of which nothing is known: for so long package downscale waits for
	// a driver.
	stopUnknown = time.Minute
	// restartFor is how soon after a stop its owner starts the machine that it remembers. Then it
	// is asked again.
	restartFor = time.Second
)

// stops is what is known of how long an app's machines take to stop, and to be suspended.
type stops [2]boots.Boots

func (k *stops) of(s balance.State) *boots.Boots {
	if s == balance.StateSuspending {
		return &k[1]
	}
	return &k[0]
}

// left returns how much longer a stop of that age should take: until the median, then until the
// longest, then as long again as it is late. Of one of which nothing is known that is as long as it
// has taken.
func (k *stops) left(s balance.State, age time.Duration) time.Duration {
	b := k.of(s)
	if !b.Known() {
		return max(age, 0)
	}
	for _, end := range [...]time.Duration{b.Expected(), b.Longest()} {
		if age < end {
			return end - age
		}
	}
	return age - b.Expected()
}

// bound returns how much longer it may take.
func (k *stops) bound(s balance.State, age time.Duration) time.Duration {
	end := stopUnknown
	if b := k.of(s); b.Known() {
		end = b.Suspect()
	}
	return max(end-age, k.left(s, age))
}

func closing(s balance.State) bool { return s == balance.StateStopping || s == balance.StateSuspending }

// soon reports whether the stop of machine i should be over before another machine has booted: then
// it is asked in its place of the order, and counted on. A stop that takes longer makes it the last
// resort.
func (p *Planner) soon(now time.Time, i int, m *balance.Machine) bool {
	boot := bootGuess
	if b := p.boots.Of(boots.Key{Kind: boots.Cold}); b.Known() {
		boot = b.Expected()
	}
	return p.stops.left(m.State, now.Sub(p.memory[i].since)) <= max(boot, newsFor)
}
