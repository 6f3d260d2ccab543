package sim

import (
	"math"
	"math/bits"
)

// rng is xoshiro256++. Each purpose has a stream of its own, so that all rules meet the same
// requests: the draws of one rule do not change the arrivals of another rule's run.
type rng struct{ s [4]uint64 }

// newRng returns the stream of a purpose (and of the how-many-th edge or machine) in a run with
// that seed.
func newRng(seed uint64, purpose, index int) *rng {
	r := &rng{}
	x := seed*0x9e3779b97f4a7c15 ^ uint64(purpose)<<32 ^ uint64(index)
	for i := range r.s { // splitmix64, as its authors advise
		x += 0x9e3779b97f4a7c15
		z := x
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		r.s[i] = z ^ z>>31
	}
	return r
}

// The purposes.
const (
	forArrivals = iota
	forWork
	forRule
	forLinks
	forBoots
	forWorld
)

func (r *rng) uint64() uint64 {
	s := &r.s
	result := bits.RotateLeft64(s[0]+s[3], 23) + s[0]
	t := s[1] << 17
	s[2] ^= s[0]
	s[3] ^= s[1]
	s[1] ^= s[2]
	s[0] ^= s[3]
	s[2] ^= t
	s[3] = bits.RotateLeft64(s[3], 45)
	return result
}

// float64 is uniform in [0, 1).
func (r *rng) float64() float64 { return float64(r.uint64()>>11) / (1 << 53) }

// intn is uniform in [0, n); its bias for small n is far below what a run can show.
func (r *rng) intn(n int) int {
	hi, _ := bits.Mul64(r.uint64(), uint64(n))
	return int(hi)
}

// exp is exponential with mean 1.
func (r *rng) exp() float64 { return -math.Log(1 - r.float64()) }

// norm is standard normal, by the polar method.
func (r *rng) norm() float64 {
	for {
		u, v := 2*r.float64()-1, 2*r.float64()-1
		if q := u*u + v*v; q > 0 && q < 1 {
			return u * math.Sqrt(-2*math.Log(q)/q)
		}
	}
}
