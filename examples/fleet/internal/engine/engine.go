// Package engine connects a node to the engine that carries messages between the nodes: a NATS
// server, elsewhere or in this process.
package engine

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/exchange"
	"github.com/ebbkit/ebb/balance/exchange/nats"
	"github.com/ebbkit/ebb/balance/exchange/nats/embedded"
	"github.com/ebbkit/ebb/examples/fleet/internal/config"
)

// Open connects a node, or starts the server in this process and connects to it.
func Open(c config.Engine, node string) (x exchange.Exchange, closeEngine func(), err error) {
	nc := nats.Config{Node: balance.NodeID(node), Credentials: c.Credentials, NKey: c.NKey}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, nil, err
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, nil, fmt.Errorf("%s has no certificate", c.CA)
		}
		nc.TLS = &tls.Config{RootCAs: roots}
	}
	url, end := c.URL, func() {}
	if c.Dir != "" {
		server, err := embedded.Start(embedded.Config{Listen: c.Listen, Dir: c.Dir})
		if err != nil {
			return nil, nil, err
		}
		nc.Server, url, end = server, server.URL(), server.Close
	}
	conn, err := nats.Connect(url, nc)
	if err != nil {
		end()
		return nil, nil, err
	}
	return conn, func() { conn.Close(); end() }, nil
}

// Serve runs a server until ctx ends.
func Serve(ctx context.Context, listen, dir string) error {
	server, err := embedded.Start(embedded.Config{Listen: listen, Dir: dir})
	if err != nil {
		return err
	}
	<-ctx.Done()
	server.Close()
	return nil
}
