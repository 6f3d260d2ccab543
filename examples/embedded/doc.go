// Package embedded has no code of its own: its Example wires the whole library in one process, without a hop, as the README
// shows it.
package embedded
