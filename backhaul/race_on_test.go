//go:build race

package backhaul

// raceEnabled says that memory is not what it would be.
const raceEnabled = true
