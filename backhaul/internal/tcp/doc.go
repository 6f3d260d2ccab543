// Package tcp is what the hop needs of connections whatever they carry: how one ends, halves and
// resets among it, how the silence of its peer is found out, and how bytes are copied between two.
package tcp
