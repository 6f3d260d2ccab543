package backhaul

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"net/url"

	"github.com/ebbkit/ebb/backhaul/internal/auth"
	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/pool"
	"github.com/ebbkit/ebb/backhaul/internal/tcp"
	"github.com/ebbkit/ebb/balance"
)

// Order sends req to a node itself rather than to one of its machines: its [HandlerConfig].Orders
// answers. It goes over a connection that is authenticated as those of requests are, beside them,
// so that neither waits for the other, and over HTTP/2: an answer may begin before the body has
// ended. Of req's URL only path and query count. Nothing is tried again, and nothing bounds the
// answer but req's context.
func (t *Transport) Order(node balance.NodeID, req *http.Request) (*http.Response, error) {
	if t.c.Dial == nil {
		return nil, fmt.Errorf(
			"backhaul: an order for node %q and Config.Dial is nil: set it to reach other nodes", node,
		)
	}
	out := req.Clone(req.Context())
	// net/http keeps connections by host; a node's name need not be a host's
	out.URL.Scheme, out.URL.Host, out.Host = "http", hex.EncodeToString([]byte(node)), ""
	if out.Header == nil {
		out.Header = http.Header{}
	}
	out.Header[hop.HeaderOrder] = []string{url.QueryEscape(string(t.node))}
	return t.orders.RoundTrip(out)
}

// newOrders returns what orders go over.
func (t *Transport) newOrders() *http.Transport {
	o := &http.Transport{
		DialContext: t.dialOrders, DisableCompression: true, IdleConnTimeout: max(0, t.c.ownerIdle),
		Protocols: new(http.Protocols),
		HTTP2: &http.HTTP2Config{
			SendPingTimeout: pool.UsualPings.After, PingTimeout: pool.UsualPings.Wait,
		},
	}
	o.Protocols.SetUnencryptedHTTP2(true)
	return o
}

// dialOrders connects to a node as for requests.
func (t *Transport) dialOrders(ctx context.Context, _, addr string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	name, err := hex.DecodeString(host)
	if err != nil {
		return nil, err
	}
	node := balance.NodeID(name)
	if t.c.dialTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, t.c.dialTimeout)
		defer cancel()
	}
	c, err := t.c.Dial(ctx, node)
	if err != nil {
		return nil, err
	}
	tcp.KeepAlive(c)
	known, err := auth.Authenticate(ctx, c, string(node), t.owners.Keys, true)
	if err != nil {
		c.Close()
		return nil, err
	}
	return known, nil
}

// order serves what a node asks of this one; node is empty where only the key was proven.
func (h *Handler) order(w http.ResponseWriter, r *http.Request, node balance.NodeID) {
	if node == "" {
		said, err := url.QueryUnescape(r.Header[hop.HeaderOrder][0])
		if err != nil || said == "" {
			deny(w, http.StatusBadRequest, "an order has to say whose it is")
			return
		}
		node = balance.NodeID(said)
	}
	h.c.Orders(node, w, r)
}
