// Package backhaul is the hop from the node that accepted a request (the edge) to the node that
// hosts the machine (its owner). [Transport] is the edge's side, an [net/http.RoundTripper] for
// [net/http/httputil.ReverseProxy]; [Handler] is the owner's. In a process that is both there is no
// hop: the Transport enters the machine's gate and dials the machine. Package backhaul/node wires
// all parts of a node in one call.
//
// An edge picks by information that is late; the owner's gate knows. A wrong pick is bounced: this
// costs one round trip, executes nothing and reads no body. A bounce brings the machine's true load
// back, as every answer does, so the next pick is better.
//
// # What is tried again
//
// The Transport alone decides; the connections under it send a request once. Each way in which a
// try can end without an answer has a [Failure.Certainty]:
//
//	NotSent        dial       no connection to the owner or the machine
//	                          TestAMachineThatRefusesConnectionsIsPassedOver
//	               dial       a peer that accepts and says nothing (HTTP/2)
//	                          TestASilentPeerIsGivenUpByItsRoundTrip
//	               stale      a pooled connection was dead: another is taken,
//	                          and it counts for nothing
//	                          TestAPooledConnectionThatDiedIsNoFailure
//	               unsent     a new connection died before a byte was written
//	                          TestAnyPlanOfFaults
//	               limit      this node or the owner has no more descriptors,
//	                          memory or ports
//	                          TestOwnLimitsAreNotTheMachinesFault
//	               limit      the request's own deadline passed before it left
//	                          TestARequestsOwnDeadlineIsNotTheMachinesFault
//	NotExecuted    bounce     the owner refused: full, closing, stopped, not
//	                          here, another epoch
//	                          TestEveryBounceIsTriedElsewhere
//	               denied     the owner and this node do not accept each other
//	                          TestAStrangerIsNotServed
//	               unread     the connection died while the body waited for
//	                          the owner's word
//	                          TestAnOwnerThatDoesNotAskForTheBody
//	               refused    GOAWAY or REFUSED_STREAM: not processed (HTTP/2);
//	                          tried again over another connection before it is
//	                          told, and counted as a bounce
//	                          TestTheGracefulEndOfAConnectionIsNoFailure
//	                          TestAMachineThatRefusesForEverIsToldOf
//	MaybeExecuted  reset      the connection or stream died after the request
//	                          was written, before the answer's head was complete
//	                          TestAMachineThatDiesUnderARequest
//	               reset      a path that froze, found by ping (HTTP/2)
//	                          TestAPathThatFreezesIsLeftInFiveSeconds
//	               timeout    no answer's head within HeaderTimeout
//	                          TestNoAnswerInTime
//	               deadline   the request's own deadline passed after it left
//	                          TestARequestsOwnDeadlineIsNotTheMachinesFault
//	Responded      malformed  the answer's head is not HTTP, or too large
//	                          TestAnAnswerThatIsNoHTTP
//	               answer     the answer broke off after its head
//	                          TestAnAnswerThatBreaksOffIsNotTakenForWhole
//	-              client     the client left
//	                          TestAClientThatLeavesFreesTheMachine
//	               client     the client's body broke off
//	                          TestABodyThatBreaksOffIsNotTheMachinesFault
//
// and by that, by the request's method and by what is left of its body, it is sent to another
// machine or not:
//
//	                 not idempotent   idempotent   body read and gone   (TestDecisionTable)
//	NotSent          yes              yes          no
//	NotExecuted      yes              yes          no
//	MaybeExecuted    no               yes          no
//	Responded        no               no           no
//
// When the client has left, its body breaks off or the request's own deadline passes, nothing is
// tried again. A request that was not executed is answered with 503 and Retry-After, one that may
// have been with 502 or 504. A limit, a deadline and a client say nothing about the machine and do
// not count against it. If two machines have broken off under a request, it is not sent to a third:
// it may be the cause.
//
// Bounces and failures have budgets of their own: 8 rounds of 8 bounces, in 30 s, and 3 failures.
// The failures of all requests together have one besides: a fifth of the requests, and 10 a second,
// but for owners that could not be connected to, where nobody had the load of the try.
// A machine that was tried is excluded exactly, and so are all machines of an owner that could not be
// connected to, until none is left; then the request goes back to the [Picker], where it may wait,
// and begins a new round.
//
// # Answers that tell of a failure
//
// An answer goes to the client, whatever its status, and the request is not tried again. But a
// machine that answers errors at once looks idle, and would attract all requests. So the edge asks
// [Config].Failed about each answer. By default status 500, 502, 503 without Retry-After and 504
// and gRPC's UNAVAILABLE, in head or trailer, are failures. Such an answer counts against the
// machine as a failed try does. What fails on all machines of an app alike counts against none:
// package balance compares them.
//
// # Bodies
//
// No try closes the client's body. A body of known length up to [Config].ReplayLimit is read to its
// end before a machine is asked for, so that a client which sends one byte and pauses holds no
// slot. It is kept for another try and counts in the bytes of a waiting room
// ([balance.Request].Held). It holds memory for what has come, not for what was announced. A client
// that expects "100 Continue" gets it then, from the server in front and before the app has spoken:
// nobody can read a body without saying so. A body above the limit is not read before there is a
// slot; nor is any other while 64 MiB are kept for all requests together.
//
// Larger bodies wait for the owner's "100 Continue". The owner asks when the request has been
// admitted and the machine connected, and sends the machine nothing before the first byte has come.
// So a refused try costs no body and no memory, whatever its size.
//
// Towards a machine that speaks HTTP/2, the first 64 KiB of a body are kept as well until the
// machine answers. A machine that ends a connection refuses the requests that it meets (nginx after
// keepalive_requests, gRPC servers after MaxConnectionAge), and they are sent again over another
// one. Once some machine has refused a request, larger bodies get connections of their own.
//
// A body of unknown length over HTTP/2 may be one side of a conversation in which the other speaks
// first, as in gRPC. Its request is sent at once, with as much of the body as is kept; the rest
// follows when the owner says that the request has been admitted.
//
// # Clients that leave
//
// A slot is free when the machine is done, not when its client has left, has been given up for want
// of progress, or has reached its deadline. The caller of RoundTrip hears of its end at once. The
// slot is held on by the process that has entered the gate: the Transport for machines of its
// process, the [Handler] for its own. The edge of a remote machine no longer counts the request;
// its owner's word does. By default the machine is told that its client has left: over HTTP/1.1 the
// sending half of the connection is closed. With [balance.App].FinishAbandoned it is not told. An
// answer that comes is read and dropped.
//
//	the machine then                 the slot by default         with FinishAbandoned
//	ends its work and answers        free with the answer        not told: free with the answer
//	(Go)
//	works on and answers (Python)    free with the answer        free with the answer
//	closes at once and works on      held for as long as its     not told: free with the answer
//	(Node, nginx)                    requests take
//	says nothing                     held for 60 s, then reset   held for AnswerPause, then reset
//	stops or fails                   free at once                free at once
//	speaks HTTP/2                    stream reset; held for as   the stream is read to its end:
//	                                 long as its requests take   free with the answer
//
// How long an app's requests take is learned: the 99th percentile, within 1 s and 60 s, and 10 s
// while nothing is known. AbandonedHold sets it, and the 60 s. So with FinishAbandoned a hard limit
// holds for what an app executes; by default it does except for requests that work on for longer
// than that. All rows are held by TestASlotIsFreeWhenTheMachineIsDone,
// TestARunThatEndsFreesItsSlots and TestAbandonedStreams, the limit by
// TestAHardLimitHoldsForWhatAnAppExecutes.
//
// If a client leaves in the middle of its body, the request cannot be finished. Its machine is told
// in either case, as it would wait for the rest. By default no more than 1 MiB of an answer is read
// for nobody; then the connection is reset, which ends the machine's work. A machine that breaks
// off by itself holds no slot. Nor does an upgraded connection, or a stream that downscale has told
// to end: their end is the machine's as well. At most 1000 connections wait for machines without a
// hard limit; slots beyond that are held without them. A connection that was left is not used
// again. An event of kind [EventFree] tells how each slot became free.
//
// # On the wire
//
// HTTP/1.1 stays HTTP/1.1, one request at a time on a connection. What came over HTTP/2 goes over
// HTTP/2 without TLS ("h2c"), many on a connection: serve the hop with [NewServer]. A machine gets
// HTTP/1.1, or h2c where [MachineConfig].H2 says so. CONNECT is answered with 501: supporting it
// would make the owner an open proxy. An upgrade to another version of HTTP ("h2c") is not passed
// on; such a request goes on as the HTTP/1.1 request that it is. A machine that switches to a
// protocol nobody asked for has not answered.
//
// Trailers pass in both directions. Those of a request are taken from its Trailer when its body has
// ended, as [http.Client] does. [net/http/httputil.ReverseProxy] clones a request before its
// trailers have come: let Rewrite set Out.Trailer = In.Trailer, as [Rewrite] does.
//
// The edge adds the headers Ebb-To (which machine, and the token of a slot that its owner has
// granted) and Ebb-Ask (which bodies wait), and to what is for a node itself Ebb-Order. The owner
// adds Ebb-Load to every answer, Ebb-Bounce to a refusal, with Ebb-Else (which machines are ready
// instead), and Ebb-Fault where the machine did not answer. Headers that begin with Ebb- or Ebb_, in
// any case, are removed from what clients and machines send: from heads, from 1xx answers and from
// trailers.
//
// # Trust
//
// An owner serves connections that it has authenticated, in one of two ways or both:
//
//   - certificates: TLS in which both ends have one ([Identity], [HandlerConfig].Certificate). Each
//     node is known by name; what passes is secret and cannot be altered. Use this wherever the
//     network is not to be trusted.
//   - a key of the cluster ([Config].Keys, [HandlerConfig].Keys): before HTTP begins, the ends of a
//     connection prove to each other that they know it; it is never sent. Over TLS the proofs are
//     bound to that very TLS connection, so that nobody can sit in the middle, whatever
//     certificates are accepted. In clear the key authenticates the beginning of a connection and
//     protects nothing after it: anybody who can read the network sees everything, and anybody who
//     can change packets can do all that a node can. That is for private networks, and for tunnels
//     that encrypt by themselves.
//
// Over TLS the preface of a key costs no round trip, except that a body waits for the owner's
// proof. In clear it costs one for each new connection, which is made ahead. Sending a recorded
// preface again executes nothing.
//
// A peer that does not authenticate is refused with 403 before anything of HTTP/2 or a body has
// been read, and closed. At most 1024 such connections are open.
//
// Where an owner grants the slots of machines that take a few requests at a time (package
// balance/grants), the token of the slot goes with the request, and the gate admits it by that. A
// slot that was taken back meanwhile counts as none: the request gets a free one or is bounced.
// Asking for slots and granting them is not this package's business: these are small messages that
// may be lost, for whatever carries rows and reports.
//
// # Windows and lanes
//
// The window of an HTTP/2 stream bounds its speed to one window per round trip. It is 60 MiB/s
// times the round trip that [Config].RTT knows, from 256 KiB to 16 MiB, and less when memory gets
// short. Where the path changes, connections with other windows take over. The edge announces its
// window, and the owner's [Server] uses the same for uploads. The window of a connection is 1 GiB,
// so that streams nobody reads stop no others. Requests with a body of 1 MiB or more use
// connections of their own, and so do requests to the same place when one moved as much in the last
// minute.
//
// # Pooled connections
//
// Connections are kept for each owner and its incarnation, and for each machine and its epoch: none
// outlives the process at its other end. An idle HTTP/1.1 connection on which anything has arrived,
// its end included, is not used again: what a machine sends beyond one answer is never taken for
// the next. On Linux the kernel is asked before a request is sent, which takes less than a
// microsecond. Elsewhere, and through TLS, only what has been read counts; a moment between arrival
// and reading remains. What a machine sends while the next request is already on its way cannot be
// told from an answer. For an owner in use one more connection is kept ready than are taken.
//
// A machine that answers and closes while a body is on its way has answered: the answer is read
// although the body can no longer be written.
//
// # Long connections
//
// [Connections] knows the connections that do not end by themselves, by class, and tells them to
// end before their machine sleeps: package downscale asks it to. Without one, each keeps its
// machine running as a request does.
//
// # Waits
//
// Connecting is bounded by three round trips and 200 ms where [Config].RTT knows the path (at least
// 300 ms, at most 3 s), and by 3 s otherwise; over HTTP/2 it includes the peer's first word. An
// owner's word about a body is bounded by 10 s, the answer's head by HeaderTimeout (none by
// default: long polls are legal), a new round by its pause, waiting for a machine by the Picker,
// and everything by the request's context.
//
// The app's row bounds what a client does not do. It is looked at a few times in each bound rather
// than by a timer for each request, so that a bound takes effect up to a quarter later. Then the
// slot is free, the request ends with an error that [Done].Err has, and nothing counts against the
// machine:
//
//	BodyPause    60 s  nothing comes of a body that is awaited, or less than 240 bytes per second
//	                   of that time: 408. Not while the machine does not read, nor of a gRPC call,
//	                   nor of a body of unknown length once the machine has begun to answer: those
//	                   are conversations.
//	AnswerPause  6 h   nothing is read of an answer that waits: it breaks off
//	UpgradeWait  60 s  a request for an upgrade gets no answer: 504
//
// Owners allow half as much again, for edges that are gone or slow.
//
// A peer that takes no bytes is slow, not gone: it may pause for hours, in an upload, a download or
// on an upgraded connection, while its kernel answers. What ends a connection is silence:
//
//   - where nothing is under way, 3 keep-alive probes without an answer, one a second after 2 s;
//   - on Linux, where data is under way: 5 s without a word from the peer, in which the data was
//     sent again in vain;
//   - on Linux, where data waits for the peer's window: 3 probes of the window without an answer.
//     The kernel sends one every 2 s (since Linux 6.15; before, up to 2 min apart when the peer has
//     read nothing for long: such a peer may be gone for 6 min until this is noticed);
//   - elsewhere, where data is under way, the kernel's own bound, often 15 min, and over HTTP/2 a
//     ping without an answer: 3 s after 2 s without a word. There a peer must not pause for longer.
//
// All that holds through TLS ([Config].Dial may return a [crypto/tls.Conn]) and through anything
// that has a NetConn method. A connection that hides its TCP connection is treated as on other
// systems, without probes. Linux here means 4.6 and later, except on 386 and s390x.
//
// An upgraded connection that breaks on one side, or is cut on the way, is reset on the other; a
// clean end of one half is passed on as one.
//
// # Ends of servers
//
// [Front] and [Server] drain before they end: for a grace period answers say that their connection
// ends, by Connection: close or GOAWAY. An owner's HTTP/1.1 connection that is then idle, or has
// been idle for 3 min, ends with a refusal. The edge drops it, and a request that has met the
// refusal is tried again, since it was not executed.
package backhaul
