//go:build race

package downscale

const raceEnabled = true
