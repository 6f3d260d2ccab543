package sim

import (
	"math"
	"time"
)

// Dist is a distribution of durations: of the work in a request, or of boots. The zero Dist is
// always 0.
type Dist struct {
	shape  shape
	mean   float64 // seconds
	sigma  float64 // of the logarithm
	mu     float64
	long   float64 // seconds
	pLong  float64
	pShort float64 // seconds: the short kind
}

type shape uint8

const (
	constant shape = iota
	exponential
	lognormal
	bimodal
)

// Always is the distribution that always gives d.
func Always(d time.Duration) Dist { return Dist{shape: constant, mean: d.Seconds()} }

// Exponential is the exponential distribution.
func Exponential(mean time.Duration) Dist { return Dist{shape: exponential, mean: mean.Seconds()} }

// Lognormal is the lognormal distribution with that mean and that deviation of its logarithm: 1 is
// uneven, 2 is a heavy tail (one request in a hundred has a tenth of all work and more).
func Lognormal(mean time.Duration, sigma float64) Dist {
	return Dist{
		shape: lognormal,
		mean:  mean.Seconds(),
		sigma: sigma,
		mu:    math.Log(mean.Seconds()) - sigma*sigma/2,
	}
}

// Bimodal is short, except for a share of long ones; each kind is of constant length.
func Bimodal(short, long time.Duration, share float64) Dist {
	return Dist{
		shape:  bimodal,
		mean:   short.Seconds()*(1-share) + long.Seconds()*share,
		pShort: short.Seconds(),
		long:   long.Seconds(),
		pLong:  share,
	}
}

// Mean returns the mean.
func (d Dist) Mean() time.Duration { return time.Duration(d.mean * 1e9) }

// draw returns seconds.
func (d *Dist) draw(r *rng) float64 {
	switch d.shape {
	case exponential:
		return d.mean * r.exp()
	case lognormal:
		return math.Exp(d.mu + d.sigma*r.norm())
	case bimodal:
		if r.float64() < d.pLong {
			return d.long
		}
		return d.pShort
	}
	return d.mean
}
