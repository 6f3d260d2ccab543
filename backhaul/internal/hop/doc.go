// Package hop holds what both sides of the hop agree on and decide by: the headers and messages
// between an edge and an owner, the proofs of a key, the detection of protocols and their framing,
// the windows of HTTP/2, what may be tried again, and how long each step may take.
//
// It is pure: values in, values out, with the time as an argument. The packages above it act.
package hop
