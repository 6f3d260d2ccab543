//go:build !race

package backhaul

const raceEnabled = false
