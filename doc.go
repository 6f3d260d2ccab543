// Package ebb is a library for building load-balancing, scale-to-zero proxies and platforms. This
// package has no code of its own; it documents the packages below it. For every request they decide
// which machine serves it, whether another machine must start, and which one may sleep: across
// regions, with many proxies, on information that is always late.
//
//	balance     which machine: fleet snapshots, strategies, reservations, and the owner's gate;
//	            below it slots of machines that take a few requests at a time (grants), and what
//	            nodes publish to each other (exchange), over NATS or within one process
//	autostart   is another one needed: the one waiting room; below it the planner (policy), the
//	            owner's starter (machine), and drivers
//	downscale   can one sleep: which machine goes, and the acknowledged soft cordon
//	backhaul    the hop from the proxy that has the client to the one that has the machine;
//	            below it a process of the fleet, wired in one call (node)
//	rtt         how far: round trip and loss between nodes, measured
//
// A process plays one role or several. An edge has clients: it has a [balance.Balancer], an
// [autostart.Autostart] and a [backhaul.Transport], which is an http.RoundTripper for
// httputil.ReverseProxy. A worker has machines, and is the owner of each: it has a
// [machine.Starter], a [downscale.Downscaler], a [backhaul.Handler] and a driver that runs the
// machines. A process that is both needs no hop. Package backhaul/node wires such a process by
// configuration, and examples/embedded wires one by hand; examples/proxy wires several of each, in
// three regions, and examples/fleet runs each as a process.
//
// Shared information is late, private information is exact, and the owner's answer is final: every
// rule of the library follows from these three. The owner's [balance.Gate] is one atomic word. So
// hard limits hold and nothing is sent to a machine that goes to sleep, whatever any node believed.
// A wrong guess costs one bounce and a retry elsewhere.
//
// Each package decides in pure functions, which take the time and random bits as arguments, and
// acts in a thin shell. Every Run method blocks until its context ends. Constructors start nothing.
//
// # Glossary
//
//   - app: what is served, with limits and rules; its rows are the machines that may serve it
//   - machine: one instance of an app (a process, a VM, a container), asleep or running
//   - owner: the one node that starts and stops a machine and admits its requests
//   - edge, worker: a node with clients; a node with machines. One process may be both
//   - fleet: the catalogue of apps and machines that a node knows; a snapshot never changes
//   - gate: where the owner decides for one machine; it admits a request or bounces it
//   - bounce: a refusal before anything was executed; the request is retried elsewhere
//   - reservation, slot: a pick, which counts as load until it is released; a place under a hard
//     limit
//   - waiting room: where a request is parked until a machine has a slot for it
//   - epoch: the count of a machine's starts; a message about an earlier epoch is ignored
//   - soft cordon: a machine that may sleep gets no new request unless nothing else can serve it
//   - recall, veto: a cordon is taken back for a request; a stop is refused, with the reason
//   - soft limit, hard limit: at or above it another machine starts; at it nothing more is admitted
//   - boot hint: how long a start takes before any has been seen
//
// # Guarantees
//
// Each guarantee names the tests that hold it.
//
//   - Nothing is lost. A request ends once: in an answer or in a clear error (502, 503 with
//     Retry-After, 504). A bounced request has not been executed and is retried elsewhere. Once
//     bytes went out, a request is retried only if it is idempotent and can be replayed, by the
//     decision table in the documentation of package backhaul. An answer that breaks off breaks off
//     at the client too. (backhaul.TestAnyPlanOfFaults, backhaul/internal/hop.TestDecisionTable,
//     backhaul.TestAChunkedAnswerThatBreaksOffDoesNotEndWell)
//   - Slow is not dead. A client or a machine may pause for hours while its system answers probes:
//     downloads, uploads, WebSockets. One that does not answer probes is given up after 5 s.
//     (backhaul.TestAReceiverMayPause, backhaul.TestABlackHoleIsGivenUp)
//   - Hard limits hold, whatever any node believed. A machine's owner admits by one
//     compare-and-swap, and a slot is free when the machine is done, not when the client has left.
//     With FinishAbandoned that is exact for what the app executes, for up to AnswerPause. By
//     default the machine is told instead that the client has left. If it closes without an answer
//     and works on, as Node and nginx do, its slot is held for as long as 99 of 100 of its requests
//     take; if it says nothing, for a minute. (balance.TestGateUnderContention,
//     backhaul.TestAHardLimitHoldsForWhatAnAppExecutes)
//   - A machine that goes to sleep has nothing in flight. Its gate closes at zero, after every node
//     knew that it would. A request that had nothing better aborts the stop. WebSockets, event
//     streams and gRPC streams keep their machine awake, and the log says so; or they are told to
//     end first where you want that (-notify websocket,events). One that has carried no data for
//     the app's IdleAfter keeps nothing awake and is told too. Only an order with a deadline of
//     your own, such as a deploy's, closes the gate over what is still in flight then.
//     (downscale/cordon.TestMachineExhaustively, backhaul.TestNoMachineSleepsUnderAConnection,
//     backhaul.TestAWebSocketWithoutDataIsIdle)
//   - A slow client holds no slot for its body. A body of known length up to 64 KiB is read before
//     a slot is taken, and counts in the waiting room's bytes. Larger ones wait without memory, and
//     are sent once the machine's owner has asked for them. These give their slot back: a body that
//     then pauses for a minute, or only drips; an answer that nobody reads for hours; an upgrade
//     that is never answered (per app: BodyPause, AnswerPause, UpgradeWait).
//     (backhaul.TestASlowSmallBodyHoldsNoSlot, backhaul.TestABodyThatStalls,
//     backhaul.TestABodyThatDripsHoldsNoSlot, backhaul.TestAnAnswerThatNobodyReads)
//   - A machine that answers errors attracts nobody. Status 500, 502, 503 and 504 (by default)
//     count as failures, compared with the app's other machines: what fails everywhere ejects none
//     of them. A machine that fails its checks or refuses connections is replaced, and restarted
//     with backoff. (backhaul.TestAMachineThatAnswersErrorsAttractsNobody,
//     balance.TestWhatFailsEverywhereEjectsNobody, autostart/machine.TestFailingMachineIsReplaced,
//     autostart/machine/internal/health.TestLiveness)
//   - Every wait has a reason. A request waits as long as a start that may serve it is in flight
//     and in time. What is wrong with an app is in the answer, the log and the page within 6 s:
//     where it listens instead, its last line, that it hangs. Once fixed, it is served. (On Linux;
//     a boot that does nothing and is slower than that needs a BootHint.) Retry-After is what is
//     known. Temporary errors of a driver cost no request, and one tenant's flood starves no other.
//     (autostart/policy.TestPatienceFollowsTheStart,
//     autostart/machine.TestBrokenAppIsNamedWithinSixSecondsAndCured,
//     internal/world.TestBrokenAppsAreNamedAndCured,
//     autostart/machine.TestClientLearnsWhatTheBootLacks, autostart.TestRetryAfterIsWhatIsKnown,
//     autostart/machine.TestPassingErrorsCostNoRequest, autostart.TestFloodOfOneTenant)
//   - A restart of the proxy costs no request, nor does that of a worker's server: clients are told
//     that their connections end before these are closed. (backhaul.TestARestartCostsNoRequest,
//     backhaul.TestARestartOfAnOwnersServerCostsNoRequest)
//   - Where edges and workers are nodes of their own, a lost node costs no request that is
//     idempotent and whose edge lives; others are executed at most once. Nodes that shut down in
//     order, one after another, cost no request at all. While the exchange between them is down,
//     machines wake by orders over the hop, and nothing is stopped on views that are late.
//     (backhaul/node.TestNothingIsLostWhenNodesFail, backhaul/node.TestARollingRestartCostsNothing,
//     backhaul/node.TestTheExchangeStandsStill)
//   - A break on one side of a WebSocket is a reset on the other, not a clean end.
//     (backhaul.TestAnUpgradedConnectionEndsAsTheOtherSideDid)
//   - Decisions are pure. The files that decide take the time and random bits as arguments and do
//     no I/O. The types that act are safe for concurrent use unless their documentation says
//     otherwise. (internal/purity.TestPackagesArePure)
//   - What blocks: Run methods, until their context ends, then they return nil; Acquire and
//     RoundTrip, while a request waits; the calls that drain, shut down or order a stop, until that
//     is done or their context ends; driver calls. Constructors start nothing. Nothing is logged
//     unless you set a logger. (internal/contract.TestRunReturnsNilWhenItsContextEndsAndRunsOnce)
//   - A pick that finds a machine does not allocate, lock or read a clock; nor does the first one
//     after a change. (balance.TestHotPathDoesNotAllocate,
//     balance.TestFirstPickAfterAChangeDoesNotAllocate, balance.TestPickTakesNoLock)
//
// # Figures
//
// Timings are medians and ratios of one run each on two shared cores. The command behind each
// figure measures it again.
//
//   - cold start: time to first byte less the machine's own boot, 100 starts: median 3.0 ms,
//     p99 8.0 ms (go test ./internal/world -run - -bench ColdStart -benchtime 100x)
//   - the first request to a sleeping app: what the proxy adds to the boot, against a bare proxy
//     that holds the request until it is told that the machine is up, 300 rounds: median 1.14 x,
//     p99 1.16 x (on a busy machine 1.19 x, and up to 2.4 x) (go test ./internal/world -run -
//     -bench FirstRequest -benchtime 300x)
//   - from a machine being ready until 1, 100, 10,000 parked requests have its 20 slots, p99: 0.05,
//     0.05, 0.16 ms (go test ./autostart -run - -bench Handover/ -benchtime 200x)
//   - from a machine listening until the local prober knows, learned boots of 0.3 s: median 0.2 ms,
//     p99 0.5 ms (go test ./autostart/machine -run - -bench Readiness/boot=300ms -benchtime 100x)
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
