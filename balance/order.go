package balance

import (
	"cmp"

	"github.com/cespare/xxhash/v2"
)

// Rank is a machine's place in the canonical order of its app: rendezvous hashing over app and ID, so that nodes which do
// not talk agree on it, and machines that come or go move no other. Machines are started from the front of the order and
// stopped from its back.
func Rank(app AppID, id MachineID) uint64 { return hash2(string(app), string(id)) }

// CompareCanonical orders machines of one app by [Rank], then by ID.
func CompareCanonical(a, b *Machine) int {
	return cmp.Or(cmp.Compare(Rank(a.App, a.ID), Rank(b.App, b.ID)), cmp.Compare(a.ID, b.ID))
}

// hash2 hashes the two strings with a separator that cannot make two pairs alike.
func hash2(a, b string) uint64 {
	var d xxhash.Digest
	d.Reset()
	d.WriteString(a)
	d.Write([]byte{0})
	d.WriteString(b)
	return d.Sum64()
}

// mix combines two hashes; it is the finalizer of MurmurHash3.
func mix(a, b uint64) uint64 {
	h := a ^ b*0x9e3779b97f4a7c15
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
