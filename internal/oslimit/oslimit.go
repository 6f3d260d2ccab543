// Package oslimit recognizes errors that say that this process, or its host, has reached a limit of
// its own.
package oslimit

// Reached reports whether err says that this process, or its host, has no more descriptors,
// memory, buffers or ports. Such an error says nothing about the peer that was to be reached.
func Reached(err error) bool { return err != nil && reached(err) }

// NoProcess reports whether err says that no further process could be started: for lack of what
// [Reached] names, or because there are too many processes.
func NoProcess(err error) bool { return err != nil && (reached(err) || noProcess(err)) }
