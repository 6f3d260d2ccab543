// Package backhaul is the hop from the node that accepted a request (the edge) to the node that hosts the machine (its
// owner). [Transport] is the edge's side, an [net/http.RoundTripper] for [net/http/httputil.ReverseProxy]; [Handler] is the
// owner's. In a process that is both there is no hop: the Transport enters the machine's gate and dials the machine.
//
// An edge picks on late information; the owner's gate knows. A pick that was wrong is bounced: it costs one round trip,
// executes nothing, reads no body, and brings the machine's true load back, so that the next pick is better. Every answer
// brings it as well.
//
// # What is tried again
//
// The Transport decides alone; the connections under it send a request once. Each way in which a try can end without an
// answer has a [Certainty]:
//
//	NotSent        dial     no connection to the owner or the machine
//	               stale    a pooled connection was dead; another is taken, and it counts for nothing
//	               unsent   a new connection died before a byte was written
//	NotExecuted    bounce   the owner refused: full, closing, stopped, not here, another epoch
//	               denied   the owner does not accept this node's key
//	               unread   the connection died while the body waited for the owner's word
//	MaybeExecuted  reset    the connection died after the request was written, before the answer's head was complete
//	               timeout  no answer's head within HeaderTimeout
//	Responded      malformed  the answer's head is not HTTP, or too large
//	               answer   the answer broke off after its head
//
// and by that, by the request's method and by what is left of its body, it is sent to another machine or not:
//
//	                 not idempotent   idempotent   body read and gone
//	NotSent          yes              yes          no
//	NotExecuted      yes              yes          no
//	MaybeExecuted    no               yes          no
//	Responded        no               no           no
//
// When the client has left, or its body breaks off, nothing is tried again. Bounces and failures have budgets of their
// own ([Config].Bounces, [Config].Failures). A machine that was tried is excluded exactly, until none is left; then the
// request goes back to the [Picker], where it may wait, and begins a new round.
//
// # Bodies
//
// No try closes the client's body. Up to [Config].ReplayLimit and of known length it is sent at once, and what has been
// read is kept for another try. Larger ones wait for the owner's "100 Continue": the owner asks when the request has been
// admitted and the machine connected, and sends the machine nothing before the first byte has come. So a refused try costs
// no body and no memory, whatever its size.
//
// # On the wire
//
// The hop speaks HTTP/1.1, one request at a time on a connection. The edge adds the headers Ebb-To (which machine) and
// Ebb-Key; the owner adds Ebb-Load to every answer, Ebb-Bounce to a refusal and Ebb-Fault where the machine did not
// answer. Headers that begin with Ebb- are removed from what clients and machines send. The key authenticates, it does not
// encrypt: between hosts the connections belong in a private network or in TLS, by [Config].Dial and the owner's listener.
//
// # Waits
//
// Connecting is bounded by DialTimeout, an owner's word about a body by AdmitTimeout, the answer's head by HeaderTimeout
// (none by default: long polls are legal), a new
// round by its pause, waiting for a machine by the Picker, everything by the request's context.
package backhaul
