// Package tcp holds what the hop needs of connections whatever they carry: how one ends, with
// half-closes and resets; how a silent peer is detected; and how bytes are copied between two.
package tcp
