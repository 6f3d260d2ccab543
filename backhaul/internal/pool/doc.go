// Package pool keeps connections to peers, owners of machines or machines, and sends requests over
// them: once, and with an account of how far each came. The loops of [net/http.Transport], which
// send some requests twice, are not in the way: what is tried again is for the caller to say.
package pool
