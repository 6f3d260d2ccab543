// Package granting holds what the owners of granted slots and the nodes that use them must agree
// on.
package granting

import "time"

// FewSlots is the hard limit up to which a machine's slots are granted rather than guessed. A node
// sends nothing to a machine at or below it without a grant, and an owner grants only those. With
// more slots a guess is right more often, while a granted slot still stays empty for a round trip:
// see TestUpToWhichLimitSlotsAreGranted in the simulation.
const FewSlots = 3

// GuessAfter is how long after an app's last grant a node guesses again: by then it assumes that
// the owners grant nothing.
const GuessAfter = 5 * time.Second
