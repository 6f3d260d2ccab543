// Package pool keeps connections to peers (owners of machines, or machines) and sends requests over
// them: once, and with an account of how far each request got. It does without the loops of
// [net/http.Transport], which send some requests twice; the caller decides what is tried again.
package pool
