// Package granting holds what the owners of granted slots and the nodes that use them have to agree
// on.
package granting

import "time"

// FewSlots is up to which hard limit a machine's slots are granted rather than guessed. A node
// sends a machine at or below it nothing without a grant, and an owner grants only those. With more
// slots a guess is right more often, and a granted slot still stands empty for a round trip: see
// TestUpToWhichLimitSlotsAreGranted in the simulation.
const FewSlots = 3

// GuessAfter is how long after an app's last grant a node guesses again: by then it takes the
// owners for some that grant nothing.
const GuessAfter = 5 * time.Second
