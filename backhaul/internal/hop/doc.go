// Package hop is what both sides of the hop agree on, and what they decide by: the headers and
// messages between an edge and an owner, the proofs of a key, how protocols are told apart and cut
// into messages, the windows of HTTP/2, what may be tried again, and how long is waited for what.
//
// It is pure: values in, values out, with the time as an argument. The packages above it act.
package hop
