package backhaul

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/balance"
)

// MachineConfig says how this process reaches its own machines. It is a part of [Config] and of
// [HandlerConfig]; the zero value is valid.
type MachineConfig struct {
	// DialMachine connects to a machine; nil: TCP to its Addr.
	DialMachine func(ctx context.Context, m balance.Machine) (net.Conn, error)
	// H2 says which machines speak HTTP/2 without TLS ("h2c"). They get every request over it, except
	// for upgrades, which are HTTP/1.1. nil: every machine gets HTTP/1.1.
	H2 func(balance.Machine) bool
	// EpochHeader names a header, such as "Ebb-Epoch", that tells the machine its epoch with each
	// request. An app that was suspended and resumed learns from it that time has passed. Empty means
	// none.
	EpochHeader string
	// HeaderTimeout bounds the wait for an answer's head after the request was written; in a [Config]
	// also for an owner's answer. 0 means none, because long polls are legal; the request's context is
	// then the bound.
	HeaderTimeout time.Duration

	// Only tests set these. dialTimeout bounds each connection to a machine, and in a [Config] also to
	// an owner; negative: only the request's context does. idleTimeout is how long an idle connection
	// to a machine is kept.
	dialTimeout, idleTimeout time.Duration
}

// Config configures a [Transport]. The zero value is valid: requests are routed by URL.Host, and
// only machines of this process can be reached.
type Config struct {
	MachineConfig // for the machines of this process; owners have one for theirs

	// Route returns the app that a request asks for, and optionally a key for affinity. nil: URL.Host
	// is the app's name, as Rewrite set it. An error ends the request; if it has a method StatusCode()
	// int, [ErrorHandler] answers with that status.
	Route func(*http.Request) (balance.Request, error)

	// Dial connects to the [Handler] of a machine's owner, within ctx's deadline. nil: there are no
	// other nodes.
	Dial func(ctx context.Context, owner balance.NodeID) (net.Conn, error)
	// RTT returns the measured round trip to a node, as package rtt does. Connecting then takes at
	// most three round trips and 200 ms (within 300 ms and 3 s), and windows of HTTP/2 suit the
	// path. nil: no path is known.
	RTT func(balance.NodeID) (rtt time.Duration, ok bool)
	// Connections tracks the long connections to machines of this process. nil: each counts as a plain
	// request.
	Connections *Connections

	// Keys are secrets of the cluster, by which this node and the owners prove to each other on each
	// connection that they belong together: one, or two while the key is being changed. Two nodes need
	// one in common. A key is never sent. It must be random, with 16 bytes or more: for example, the
	// output of "openssl rand -base64 32". Without TLS it protects the beginning of a connection and
	// nothing that follows: see the package comment. None: owners know this node by its certificate,
	// or accept everybody.
	//
	// To change the key without an interruption, first give every node the new key beside the old one,
	// in any order; then remove the old one from every node.
	Keys []string

	// ReplayLimit is the size in bytes of the largest body that is read before a machine is picked,
	// and kept for another try. Larger bodies, and those of unknown length, wait until the owner asks
	// for them, which costs a round trip and no memory. 0 means 64 KiB: below that size, waiting costs
	// more than the copy. Negative: every body waits.
	ReplayLimit int
	// Failed reports whether an answer shows that its machine has failed. Such an answer goes to the
	// client and is never tried again, but counts against the machine as a failed try does: for
	// ejection, and as load, so that a machine that fails fast attracts no requests. It is called once
	// with the status and header of each answer and, unless that returned true, again at the end of an
	// answer with trailers: then status is 0 and h the trailer. It is called on the goroutine that
	// reads the answer, must not change h and should return soon. nil: the function [Failed].
	Failed func(status int, h http.Header) bool

	// Trace observes requests.
	Trace Trace

	tuning
}

// HandlerConfig configures a [Handler]. Keys, Certificate or AnyNode is required; the zero value of
// the rest is valid.
type HandlerConfig struct {
	MachineConfig

	// Keys are as in [Config]: edges that prove one of them are served. Others get 403, and no machine
	// sees their requests.
	Keys []string
	// Certificate accepts edges by the client certificate of their TLS connection, and returns the
	// node's name, for traces; an error refuses it. It is asked about certificates that the server
	// has verified, as its tls.Config.ClientAuth and ClientCAs say. [Identity.NodeOf] is one. It
	// must be safe for concurrent use. nil: certificates are not looked at.
	Certificate func(*x509.Certificate) (balance.NodeID, error)
	// AnyNode accepts all connections: for listeners that nobody else can reach.
	AnyNode bool

	// Connections tracks the long connections to machines. nil: each counts as a plain request.
	Connections *Connections

	// Orders serves what other nodes ask of this node itself, see [Transport.Order]. from is the node
	// that asks: as its certificate says, else as it says itself, which the key vouches for. nil:
	// orders are refused.
	Orders func(from balance.NodeID, w http.ResponseWriter, r *http.Request)

	// Trace observes requests; of its functions only Event is called.
	Trace Trace
}

// tuning holds what only tests have had to set. Zero means the constant.
type tuning struct {
	bounces, rounds, failures  int           // failures: negative means none
	patience                   time.Duration // negative: no bound but the request's context
	failureRatio, failureFloor float64       // a negative ratio: no such bound
	replayMemory               int64         // negative: nothing is kept
	admitTimeout               time.Duration // negative: none
	maxHeader                  int64
	maxIdle, spare             int // negative: none
	bandwidth                  int64
	pressure                   func() float64
	ownerIdle                  time.Duration // negative: for ever
	slow                       time.Duration // negative: no request is slow
	sample                     int           // negative: none
}

const (
	defaultReplay = 64 << 10
	// defaultDial bounds a connection to a machine or an owner: the longest that a second try is still
	// worth waiting for.
	defaultDial = 3 * time.Second
	// defaultOwnerIdle is how long an idle connection to an owner is kept; a [Server] keeps it for
	// twice as long.
	defaultOwnerIdle = 90 * time.Second
	// defaultMachineIdle is how long an idle connection to a machine is kept: common app servers close
	// after 5 s, and what they close before is noticed.
	defaultMachineIdle = 4 * time.Second

	// defaultReplayMemory bounds the bytes of bodies that are kept for all requests together: a
	// thousand bodies of the largest size. Beyond it bodies wait as large ones do.
	defaultReplayMemory = 64 << 20
	// defaultBounces is how many refusals a request takes in one round, before the machines it tried
	// are forgotten and it returns to the Picker. With load on every reply a request meets 0.1 to 1 at
	// high load.
	defaultBounces = 8
	// defaultRounds bounds these rounds, counted from when the Picker last waited: pauses between
	// them grow from 5 to 250 ms, 0.8 s together. A Picker that waits may begin any number.
	defaultRounds = 8
	// defaultPatience bounds the time from a request's first bounce to its last. The request is then
	// answered with 503, even if the Picker would wait on. Most clients wait that long.
	defaultPatience = 30 * time.Second
	// defaultFailures is how many failed tries a request survives where the decision table allows
	// another: a request that fails on three machines is seldom their fault.
	defaultFailures = 3
	// defaultFailureRatio and defaultFailureFloor bound the failed tries of all requests together: a
	// share of the requests, plus a number per second, both over about 10 s. Beyond them a failure is
	// passed on to the client, so that retries do not overload the machines that still work.
	defaultFailureRatio = 0.2
	defaultFailureFloor = 10
	// defaultAdmit bounds the wait for an owner to ask for a body: the owner's DialTimeout for the
	// machine, and room for round trips. Then another machine is tried.
	defaultAdmit = 10 * time.Second
	// defaultMaxHeader bounds an answer's head, as http.Server bounds a request's.
	defaultMaxHeader = 1 << 20
	// defaultMaxIdle is how many idle connections are kept for each owner and each machine: more than
	// the hard limit of most machines.
	defaultMaxIdle = 256
	// defaultSpare is how many connections are kept ready for each owner in use, so that one request
	// more than before does not wait for a dial. Over HTTP/2 one is made when all streams of the
	// others are taken. Machines get none: they are near, and a simple app serves one connection at a
	// time.
	defaultSpare = 1
	// defaultSlow is how long an answer's head may take before Trace.Trail reports the request: a
	// delay that people notice.
	defaultSlow = time.Second
	// defaultSample is the share of the other requests that Trace.Trail reports: one in so many. At a
	// thousand requests a second that is one trail a second.
	defaultSample = 1000
)

func (c *tuning) resolve() {
	c.replayMemory = max(0, cmp.Or(c.replayMemory, defaultReplayMemory))
	c.bounces = cmp.Or(c.bounces, defaultBounces)
	c.rounds = cmp.Or(c.rounds, defaultRounds)
	c.patience = max(0, cmp.Or(c.patience, defaultPatience))
	c.failures = max(0, cmp.Or(c.failures, defaultFailures))
	c.failureRatio = cmp.Or(c.failureRatio, defaultFailureRatio)
	c.failureFloor = cmp.Or(c.failureFloor, defaultFailureFloor)
	c.ownerIdle = cmp.Or(c.ownerIdle, defaultOwnerIdle)
	c.slow = max(0, cmp.Or(c.slow, defaultSlow))
	c.sample = max(0, cmp.Or(c.sample, defaultSample))
	c.admitTimeout = cmp.Or(c.admitTimeout, defaultAdmit)
	c.maxHeader = cmp.Or(c.maxHeader, defaultMaxHeader)
	c.maxIdle = cmp.Or(c.maxIdle, defaultMaxIdle)
	c.spare = max(0, cmp.Or(c.spare, defaultSpare))
	c.bandwidth = cmp.Or(c.bandwidth, hop.DefaultBandwidth)
	if c.pressure == nil {
		// the part of the memory limit in use: from 0.8 and 0.9 on, new connections get windows of a half
		// and a quarter
		c.pressure = memoryPressure
	}
}

// resolve fills in defaults. config is the name of the enclosing struct.
func (c *MachineConfig) resolve(config string) error {
	c.dialTimeout = cmp.Or(c.dialTimeout, defaultDial)
	c.idleTimeout = cmp.Or(c.idleTimeout, defaultMachineIdle)
	if c.DialMachine == nil {
		c.DialMachine = dialMachine
	}
	if c.HeaderTimeout < 0 {
		return fmt.Errorf("backhaul: %s.HeaderTimeout %v: want 0 (none) or more", config, c.HeaderTimeout)
	}
	return checkEpoch(config, &c.EpochHeader)
}

func (c *Config) resolve() error {
	c.tuning.resolve()
	c.ReplayLimit = max(0, cmp.Or(c.ReplayLimit, defaultReplay))
	if c.Route == nil {
		c.Route = routeByHost
	}
	if c.Failed == nil {
		c.Failed = Failed
	}
	if c.ReplayLimit > math.MaxInt32 {
		return fmt.Errorf(
			"backhaul: Config.ReplayLimit %d: want at most %d bytes", c.ReplayLimit, math.MaxInt32,
		)
	}
	return errors.Join(checkKeys("Config", c.Keys), c.MachineConfig.resolve("Config"))
}

func (c *HandlerConfig) resolve() error {
	if len(c.Keys) == 0 && c.Certificate == nil && !c.AnyNode {
		return errors.New(
			"backhaul: HandlerConfig.Keys is empty: set the cluster's secret, or Certificate for edges with certificates, or AnyNode where nobody else can connect",
		)
	}
	return errors.Join(
		checkKeys("HandlerConfig", c.Keys), c.MachineConfig.resolve("HandlerConfig"),
	)
}

// checkKeys returns an error that contains no key, because errors are logged.
func checkKeys(config string, keys []string) error {
	if len(keys) > 2 {
		return fmt.Errorf(
			"backhaul: %s.Keys has %d: want one, or two while it is changed", config, len(keys),
		)
	}
	for i, key := range keys {
		if key == "" || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			return fmt.Errorf(
				"backhaul: %s.Keys[%d]: want printable ASCII without spaces, and not nothing; what is read from a file may end in a line feed",
				config, i,
			)
		}
	}
	return nil
}

func checkEpoch(config string, name *string) error {
	if strings.ContainsFunc(*name, func(r rune) bool { return !hop.IsTokenRune(r) }) {
		return fmt.Errorf(
			"backhaul: %s.EpochHeader %q: want the name of a header, such as \"Ebb-Epoch\"", config, *name,
		)
	}
	*name = http.CanonicalHeaderKey(*name)
	return nil
}

func routeByHost(r *http.Request) (balance.Request, error) {
	if r.URL == nil || r.URL.Host == "" {
		return balance.Request{}, fmt.Errorf(
			"backhaul: request without URL.Host: let Rewrite set it to the app's name, or set Config.Route: %w",
			balance.ErrNoApp,
		)
	}
	return balance.Request{App: balance.AppID(r.URL.Host)}, nil
}

// idempotent reports whether executing a request twice is harmless.
func idempotent(r *http.Request) bool {
	switch r.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return r.Header["Idempotency-Key"] != nil || r.Header["X-Idempotency-Key"] != nil
}

var machineDialer net.Dialer

func dialMachine(ctx context.Context, m balance.Machine) (net.Conn, error) {
	if m.Addr == "" {
		return nil, fmt.Errorf(
			"backhaul: machine %q has no address: its driver has to say where it listens", m.ID,
		)
	}
	return machineDialer.DialContext(ctx, "tcp", m.Addr)
}

// memoryPressure returns the part of the memory limit that is in use.
func memoryPressure() float64 {
	limit := debug.SetMemoryLimit(-1)
	if limit <= 0 || limit == math.MaxInt64 {
		return 0
	}
	sample := []metrics.Sample{
		{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"},
	}
	metrics.Read(sample)
	return float64(sample[0].Value.Uint64()-sample[1].Value.Uint64()) / float64(limit)
}
