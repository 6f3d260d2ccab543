// Package ebb is the map of a library with which people build load-balancing, scale-to-zero
// proxies and platforms. It has no code of its own; the packages below it have. For every
// request they decide which machine serves it, whether another machine must start, and which one
// may sleep, across regions, with many proxies, on information that is always late.
//
//	balance     which machine: fleet snapshots, strategies, reservations, and the owner's gate;
//	            below it slots of machines that take a few requests at a time (grants), and what
//	            nodes tell each other (exchange), over NATS or within one process
//	autostart   is another needed: the one waiting room; below it the planner (policy), the owner's
//	            starter (machine), and drivers
//	downscale   can one sleep: the acknowledged soft cordon, and who goes
//	backhaul    the hop from the proxy that has the client to the one that has the machine;
//	            below it a process of the fleet, wired in one call (node)
//	rtt         how far: round trip and loss between nodes, measured
//
// A process plays one role or several. An edge has clients: a [balance.Balancer], an
// [autostart.Autostart] and a [backhaul.Transport], which is an http.RoundTripper for
// httputil.ReverseProxy. A worker has machines, and is the owner of each: a [machine.Starter], a
// [downscale.Downscaler], a [backhaul.Handler] and a driver that runs them. One process that is
// both needs no hop. Package backhaul/node wires such a process by configuration, and
// examples/embedded by hand; examples/proxy wires several of each, in three regions, and
// examples/fleet runs each as a process.
//
// What is shared is late, what is private is exact, what the owner says is true: every rule of
// the library is made of these three. The owner's [balance.Gate] is one atomic word, so hard
// limits hold and nothing is sent to a machine that goes to sleep, whatever anybody believed; a
// wrong guess costs one bounce and a try elsewhere.
//
// Each package decides in pure functions, which take the time and random bits as arguments, and
// acts in a thin shell. Every Run method blocks until its context ends. Constructors start
// nothing.
//
// # Glossary
//
//   - app: what is served, with limits and rules; its rows are the machines that may serve it
//   - machine: one instance of an app (a process, a VM, a container), asleep or running
//   - owner: the one node that starts and stops a machine and admits its requests
//   - edge, worker: a node with clients; a node with machines. One process may be both
//   - fleet: the catalogue of apps and machines that a node knows; a snapshot never changes
//   - gate: the owner's word for one machine; it admits a request or bounces it
//   - bounce: a refusal before anything was executed; the request is tried elsewhere
//   - reservation, slot: a pick, which is load until it is released; a place under a hard limit
//   - waiting room: where a request is parked until a machine has a slot for it
//   - epoch: counts a machine's starts; who speaks of an old one is not believed
//   - soft cordon: a machine that may sleep gets no new request unless nothing else can serve it
//   - recall, veto: a cordon is taken back for a request; a stop is refused, and the reason is told
//   - soft limit, hard limit: above it another machine starts; above it nothing is admitted
//   - boot hint: how long a start takes before any has been seen
//
// # Guarantees
//
// Each names tests that hold it.
//
//   - Nothing is lost. A request ends once: in an answer or in a clear error (502, 503 with
//     Retry-After, 504). A bounced request has not been executed and is tried elsewhere.
//     After bytes went out, only what is idempotent and can be replayed is tried again, by
//     the decision table in the documentation of package backhaul. An answer that breaks off
//     breaks off at the client too. (backhaul.TestAnyPlanOfFaults,
//     backhaul/internal/hop.TestDecisionTable,
//     backhaul.TestAChunkedAnswerThatBreaksOffDoesNotEndWell)
//   - Slow is not dead. A client or a machine may pause for hours while its system answers
//     probes: downloads, uploads, WebSockets. One that is silent to probes is given up after
//     5 s. (backhaul.TestAReceiverMayPause, backhaul.TestABlackHoleIsGivenUp)
//   - Hard limits hold, whatever any node believed: a machine's owner admits by one
//     compare-and-swap, and a slot is free when the machine is done, not when the client has
//     left. With FinishAbandoned that is exact of what the app executes, for up to
//     AnswerPause. By default the machine is told instead: one that closes without an answer
//     and works on, as Node and nginx do, is given as long as 99 of 100 of its requests take,
//     and one that says nothing a minute. (balance.TestGateUnderContention,
//     backhaul.TestAHardLimitHoldsForWhatAnAppExecutes)
//   - A machine that goes to sleep has nothing in flight: its gate closes at zero, after
//     every node knew that it would. A request that had nothing better aborts the stop.
//     WebSockets, event streams and gRPC streams keep their machine, and the log says so, or
//     are told to end first where you want that (-notify websocket,events); one that has
//     carried no data for the app's IdleAfter keeps nothing awake and is told too. Only an
//     order with a deadline of your own, such as a deploy's, closes it over what is still
//     there then. (downscale/cordon.TestMachineExhaustively,
//     backhaul.TestNoMachineSleepsUnderAConnection, backhaul.TestAWebSocketWithoutDataIsIdle)
//   - A slow client holds no slot for its body. A body of known length up to 64 KiB is read
//     before a slot is taken, and counts in the waiting room's bytes. Larger ones wait
//     without memory, and are sent once the machine's owner has asked for them; one that
//     pauses for a minute meanwhile, or only drips, an answer that nobody reads for hours,
//     and an upgrade that is never answered give their slot back (per app: BodyPause,
//     AnswerPause, UpgradeWait). (backhaul.TestASlowSmallBodyHoldsNoSlot,
//     backhaul.TestABodyThatStalls, backhaul.TestABodyThatDripsHoldsNoSlot,
//     backhaul.TestAnAnswerThatNobodyReads)
//   - A machine that answers errors attracts nobody. Status 500, 502, 503 and 504 (by
//     default) count as failures, compared with the app's other machines: what fails
//     everywhere ejects none of them. A machine that fails its checks or refuses connections
//     is replaced, and restarted with back-off.
//     (backhaul.TestAMachineThatAnswersErrorsAttractsNobody,
//     balance.TestWhatFailsEverywhereEjectsNobody,
//     autostart/machine.TestFailingMachineIsReplaced,
//     autostart/machine/internal/health.TestLiveness)
//   - Every wait has a reason. A request waits as long as a start that may serve it is in
//     flight and in time. What is wrong with an app stands in the answer, the log and the
//     page within 6 s: where it listens instead, its last line, that it hangs; mended, it is
//     served. (On Linux; a boot that does nothing and is slower than that needs a BootHint.)
//     Retry-After is what is known. Passing errors of a driver cost no request, and one
//     tenant's flood starves no other. (autostart/policy.TestPatienceFollowsTheStart,
//     autostart/machine.TestBrokenAppIsNamedWithinSixSecondsAndCured,
//     internal/world.TestBrokenAppsAreNamedAndCured,
//     autostart/machine.TestClientLearnsWhatTheBootLacks,
//     autostart.TestRetryAfterIsWhatIsKnown,
//     autostart/machine.TestPassingErrorsCostNoRequest, autostart.TestFloodOfOneTenant)
//   - A restart of the proxy costs no request, nor does that of a worker's server:
//     connections are told to end before they are closed.
//     (backhaul.TestARestartCostsNoRequest,
//     backhaul.TestARestartOfAnOwnersServerCostsNoRequest)
//   - Where edges and workers are nodes of their own, one that is lost costs no request that is
//     idempotent and whose edge lives; others are executed at most once. Nodes that end in order, one
//     after another, cost no request at all. While the exchange between them is away, machines wake
//     by orders over the hop, and nothing is stopped on views that are late.
//     (backhaul/node.TestNothingIsLostWhenNodesFail,
//     backhaul/node.TestARollingRestartCostsNothing, backhaul/node.TestTheExchangeStandsStill)
//   - What breaks on one side of a WebSocket is no clean end on the other, but a reset.
//     (backhaul.TestAnUpgradedConnectionEndsAsTheOtherSideDid)
//   - What is decided is pure. The files that decide take the time and random bits as
//     arguments and do no I/O. What acts is safe for concurrent use unless its documentation
//     says otherwise. (internal/purity.TestPackagesArePure)
//   - What blocks: Run methods, until their context ends, then they return nil; Acquire and
//     RoundTrip, while a request waits; the calls that drain, shut down or order a stop,
//     until that is done or their context ends; driver calls. Constructors start nothing.
//     Nothing is logged unasked.
//     (internal/contract.TestRunReturnsNilWhenItsContextEndsAndRunsOnce)
//   - A pick that finds a machine does not allocate, lock or read a clock, the first one
//     after a change included. (balance.TestHotPathDoesNotAllocate,
//     balance.TestFirstPickAfterAChangeDoesNotAllocate, balance.TestPickTakesNoLock)
//
// # Figures
//
// Timings are medians and ratios of one run each on two shared cores. The command behind each row
// makes it anew.
//
//   - cold start: time to first byte less the machine's own boot, 100 starts: median 3.0 ms,
//     p99 8.0 ms (go test ./internal/world -run - -bench ColdStart -benchtime 100x)
//   - the first request to a sleeping app: what the proxy adds to the boot, against a bare
//     proxy that holds the request and is told, 300 rounds: median 1.14 x, p99 1.16 x (on a
//     busy machine 1.19 x, and up to 2.4 x) (go test ./internal/world -run - -bench
//     FirstRequest -benchtime 300x)
//   - a machine is ready until 1, 100, 10,000 parked requests have its 20 slots, p99: 0.05,
//     0.05, 0.16 ms (go test ./autostart -run - -bench Handover/ -benchtime 200x)
//   - a machine listens until the local prober knows, learned boots of 0.3 s: median 0.2 ms,
//     p99 0.5 ms (go test ./autostart/machine -run - -bench Readiness/boot=300ms -benchtime
//     100x)
//   - what autostart adds to a warm request's pick: 24 ns, no allocation (go test ./autostart
//     -run - -bench WarmPath)
//   - CPU of a warm request over edge and worker, against one ReverseProxy hop that keeps its
//     connections and has no BufferPool: 1.8 x (go test ./backhaul -run - -bench Hop/ratio
//     -benchtime 5x)
//   - the same with both roles in one process: 0.9 x (the same command)
//   - mean latency against an oracle that knows everything, geometric mean of 39 simulated
//     worlds: 1.09, worst 1.84 (power of two in the nearest region: 1.51, and 8.1 where one
//     of two machines fails fast) (go test ./internal/sim -run TestBalanceQuality -v -full,
//     and for power of two -rule p2c-near -seeds 1)
//   - twenty machines that take one request at a time (GPUs), 4 edges 10 ms away, work of 0.2
//     s, 90 % load: bounces per request, mean and p99 wait: 0.05, 77 ms, 0.5 s with slots
//     granted by their owners; 2.4, 126 ms, 0.9 s when edges guess (go test ./internal/sim
//     -run TestGrantFigures -v)
//   - machines started per machine needed, boots of 0.3 to 60 s: 1.00 (go test ./internal/sim
//     -run TestAutostartQuality -v -full)
//   - stops followed by a start within 5 min, per simulated day: 0.1 at 1.09 x the
//     machine-hours of the modelled proxy's rule (253) (go test ./internal/sim -run
//     TestDownscaleQuality -v -full)
//   - a job every 6 min: cold starts on a simulated day: none with a learned keep-alive, 237
//     with the usual 5 min, at 24.0 and 20.2 machine-hours (go test ./internal/sim -run
//     KeepAliveQuality -v)
//   - memory of an app with two machines, 200 apps: asleep and never used; used and asleep
//     again: 6.3 KiB; 10.0 KiB (go test ./internal/sim -run SleepingApps -v)
//   - the stop protocol, explored exhaustively: 0.4 M states, 5 M transitions (go test
//     ./downscale/cordon -run Exhaustively -v)
package ebb

import (
	_ "github.com/ebbkit/ebb/autostart"
	_ "github.com/ebbkit/ebb/autostart/machine"
	_ "github.com/ebbkit/ebb/backhaul"
	_ "github.com/ebbkit/ebb/backhaul/node"
	_ "github.com/ebbkit/ebb/balance"
	_ "github.com/ebbkit/ebb/downscale"
	_ "github.com/ebbkit/ebb/rtt"
)
