package nats

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/exchange"
	"github.com/nats-io/nats.go"
)

// Config configures a connection. The zero value of every field is valid.
type Config struct {
	// Node is this node's ID: the connection's name at the server, and part of its inboxes, so
	// that permissions can tell nodes apart.
	Node balance.NodeID
	// Credentials is a file of credentials (JWT and key), NKey a file with the seed of a key. Both
	// are read again at each reconnect. Set at most one of them.
	Credentials, NKey string
	// TLS is used if the URL begins with tls:// or the server asks for it; nil means the system's
	// roots.
	TLS *tls.Config
	// Server is a server in this process, such as one of package embedded; nil means that the URL
	// is dialed.
	Server nats.InProcessConnProvider
	// Options are applied last.
	Options []nats.Option
	Trace   Trace
}

// Trace observes a connection. Each func may be nil, and must not block.
type Trace struct {
	// Connected: the server can be reached, for the first time or again.
	Connected func(url string)
	// Disconnected: it cannot; err may be nil.
	Disconnected func(err error)
	// Failed: something was refused or dropped, such as messages of a subscriber that is too slow.
	Failed func(err error)
}

const (
	// reconnectWait and reconnectJitter are the wait before a lost connection is retried: a server
	// that restarts is back within half a second.
	reconnectWait, reconnectJitter = 50 * time.Millisecond, 50 * time.Millisecond
	// pingEvery is how often the server is pinged, and pingsMissed how many pings it may leave
	// unanswered. With the client's defaults, 2 x 2 min, a node would hear nothing for that long
	// after a server vanishes.
	pingEvery, pingsMissed = 2 * time.Second, 2
	// writeTimeout bounds a write to a server that does not read.
	writeTimeout = 2 * time.Second
	// flushTimeout is how long a subscription waits to take effect.
	flushTimeout = time.Second
	// pendingMessages and pendingBytes bound what waits for a subscriber.
	pendingMessages, pendingBytes = 64 << 10, 64 << 20
	// defaultPayload is what a server is assumed to take before it was reached.
	defaultPayload = 1 << 20
)

// Conn is a connection to a NATS server. It implements [exchange.Exchange].
type Conn struct {
	nc *nats.Conn

	mu    sync.Mutex
	hooks []*func()
}

// Connect returns a connection to one of the servers of a comma-separated list of URLs. A server
// that cannot be reached is retried forever and is no error; a server that refuses this node is
// one.
func Connect(urls string, c Config) (*Conn, error) {
	if c.Credentials != "" && c.NKey != "" {
		return nil, errors.New(
			"nats: Config.Credentials and Config.NKey are both set: leave one of them empty",
		)
	}
	if urls == "" && c.Server == nil {
		return nil, errors.New(`nats: no URL: want one such as "nats://127.0.0.1:4222", or Config.Server`)
	}
	x := &Conn{}
	options := []nats.Option{
		nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true), nats.IgnoreAuthErrorAbort(),
		nats.ReconnectWait(reconnectWait), nats.ReconnectJitter(reconnectJitter, reconnectJitter),
		nats.PingInterval(pingEvery), nats.MaxPingsOutstanding(pingsMissed),
		nats.ReconnectBufSize(-1), nats.FlusherTimeout(writeTimeout),
		nats.ConnectHandler(func(nc *nats.Conn) { x.connected(nc, c.Trace) }),
		nats.ReconnectHandler(func(nc *nats.Conn) { x.connected(nc, c.Trace) }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if c.Trace.Disconnected != nil {
				c.Trace.Disconnected(err)
			}
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			if c.Trace.Failed != nil {
				if sub != nil {
					err = fmt.Errorf("%s: %w", sub.Subject, err)
				}
				c.Trace.Failed(err)
			}
		}),
	}
	if c.Node != "" {
		options = append(options, nats.Name(string(c.Node)), nats.CustomInboxPrefix(inboxPrefix(c.Node)))
	}
	if c.Credentials != "" {
		options = append(options, nats.UserCredentials(c.Credentials))
	}
	if c.NKey != "" {
		o, err := nats.NkeyOptionFromSeed(c.NKey)
		if err != nil {
			return nil, fmt.Errorf("nats: Config.NKey: %w", err)
		}
		options = append(options, o)
	}
	if c.TLS != nil {
		options = append(options, nats.Secure(c.TLS))
	}
	if c.Server != nil {
		options = append(options, nats.InProcessServer(c.Server))
	}
	nc, err := nats.Connect(urls, append(options, c.Options...)...)
	if err != nil {
		return nil, fmt.Errorf("nats: connect to %s: %w", urls, err)
	}
	if err := nc.LastError(); !nc.IsConnected() && refused(err) {
		nc.Close()
		return nil, fmt.Errorf("nats: connect to %s: %w", urls, err)
	}
	x.nc = nc
	return x, nil
}

// refused reports whether an error says that the server does not let this node in.
func refused(err error) bool {
	for _, of := range []error{
		nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked, nats.ErrAccountAuthExpired,
	} {
		if errors.Is(err, of) {
			return true
		}
	}
	return false
}

// inboxPrefix returns the prefix of the subjects on which a node gets answers.
func inboxPrefix(node balance.NodeID) string {
	return "_INBOX_" + token(string(node))
}

// token writes a name as one token of a subject, as in [exchange.Subject.String].
func token(name string) string {
	const before = "ebb..snap."
	return exchange.Subject{Kind: "snap", Node: balance.NodeID(name)}.String()[len(before)+1:]
}

// connected calls all who registered with OnReconnect.
func (x *Conn) connected(nc *nats.Conn, t Trace) {
	if t.Connected != nil {
		t.Connected(nc.ConnectedUrlRedacted())
	}
	x.mu.Lock()
	hooks := slices.Clone(x.hooks)
	x.mu.Unlock()
	for _, h := range hooks {
		(*h)()
	}
}

// Close ends the connection. Messages that were published before are still sent if the server can
// be reached.
func (x *Conn) Close() {
	x.nc.FlushTimeout(flushTimeout) //nolint:errcheck // it is closed in any case
	x.nc.Close()
}

// Reconnect drops the connection and makes it again, as after a failure: to use new credentials, or
// to move to another server.
func (x *Conn) Reconnect() error { return x.nc.ForceReconnect() }

// MaxPayload implements [exchange.Exchange]: it is what the server takes.
func (x *Conn) MaxPayload() int {
	if n := x.nc.MaxPayload(); n > 0 {
		return int(n)
	}
	return defaultPayload
}

// Publish implements [exchange.Exchange].
func (x *Conn) Publish(s exchange.Subject, payload []byte) error {
	if err := x.nc.Publish(s.String(), payload); err != nil {
		return fmt.Errorf("nats: publish %v: %w", s, err)
	}
	return nil
}

// Subscribe implements [exchange.Exchange].
func (x *Conn) Subscribe(filter exchange.Subject, receive func(exchange.Message)) (func(), error) {
	return x.subscribe(filter, func(m *nats.Msg) {
		if s, err := exchange.ParseSubject(m.Subject); err == nil {
			receive(exchange.Message{Subject: s, Payload: m.Data})
		}
	})
}

// Serve implements [exchange.Exchange].
func (x *Conn) Serve(at exchange.Subject, answer func([]byte) []byte) (func(), error) {
	return x.subscribe(at, func(m *nats.Msg) {
		m.Respond(answer(m.Data)) //nolint:errcheck // the asker retries
	})
}

func (x *Conn) subscribe(s exchange.Subject, handle nats.MsgHandler) (func(), error) {
	sub, err := x.nc.Subscribe(s.String(), handle)
	if err != nil {
		return nil, fmt.Errorf("nats: subscribe to %v: %w", s, err)
	}
	if err := sub.SetPendingLimits(pendingMessages, pendingBytes); err != nil {
		return nil, fmt.Errorf("nats: subscribe to %v: %w", s, err)
	}
	if x.nc.IsConnected() {
		x.nc.FlushTimeout(flushTimeout) //nolint:errcheck // it takes effect with the connection
	}
	return func() { sub.Unsubscribe() }, nil //nolint:errcheck // the connection may be closed already
}

// Request implements [exchange.Exchange].
func (x *Conn) Request(ctx context.Context, to exchange.Subject, payload []byte) ([]byte, error) {
	m, err := x.nc.RequestWithContext(ctx, to.String(), payload)
	if err != nil {
		return nil, fmt.Errorf("nats: request %v: %w", to, err)
	}
	return m.Data, nil
}

// OnReconnect implements [exchange.Exchange].
func (x *Conn) OnReconnect(reconnected func()) func() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.hooks = append(x.hooks, &reconnected)
	return func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.hooks = slices.DeleteFunc(x.hooks, func(h *func()) bool { return h == &reconnected })
	}
}
