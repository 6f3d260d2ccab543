package backhaul

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// Identity is a node's certificate and the authorities that vouch for other nodes, read from files,
// for TLS in which both ends prove their identity: use it to connect nodes over any network that is
// not trusted. A node's certificate has the node's name ([balance.NodeID]) as its first DNS name,
// and is valid for servers and clients (extended key usage).
//
// Certificates are short-lived: [Identity.Reload] reads new files, which apply to connections made
// from then on. To change the authority, add the new one to every node's CA file, then change the
// certificates, then remove the old one. Open connections stay open: if a certificate must lose its
// power at once, close them with [Transport.CloseIdleConnections], or restart.
//
// All methods are safe for concurrent use.
type Identity struct {
	cert, key, ca string // files

	loaded atomic.Pointer[identity]
}

type identity struct {
	cert  tls.Certificate
	roots *x509.CertPool
}

// LoadIdentity reads three PEM files: the node's certificate with the intermediates up to the
// authority, its private key, and the authorities whose certificates are accepted as nodes.
func LoadIdentity(certFile, keyFile, caFile string) (*Identity, error) {
	id := &Identity{cert: certFile, key: keyFile, ca: caFile}
	return id, id.Reload()
}

// Reload reads the files again. On an error, which names the file, the files read before stay in
// use.
func (id *Identity) Reload() error {
	pair, err := tls.LoadX509KeyPair(id.cert, id.key)
	if err != nil {
		return fmt.Errorf(
			"backhaul: certificate %s with key %s: %w: want a certificate in PEM and the private key that belongs to it",
			id.cert, id.key, err,
		)
	}
	if pair.Leaf == nil {
		if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return fmt.Errorf("backhaul: certificate %s: %w", id.cert, err)
		}
	}
	if _, err := id.NodeOf(pair.Leaf); err != nil {
		return fmt.Errorf("backhaul: certificate %s: %w", id.cert, err)
	}
	pem, err := os.ReadFile(id.ca)
	if err != nil {
		return fmt.Errorf("backhaul: authorities: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return fmt.Errorf(
			"backhaul: authorities %s: no certificate in it: want the authorities of the nodes in PEM",
			id.ca,
		)
	}
	chain := x509.NewCertPool()
	for _, der := range pair.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			chain.AddCert(c)
		}
	}
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: chain, KeyUsages: []x509.ExtKeyUsage{use}}); err != nil {
			return fmt.Errorf(
				"backhaul: certificate %s: %w: want one that is valid now, that an authority of %s has signed, and that is good for servers and clients",
				id.cert, err, id.ca,
			)
		}
	}
	id.loaded.Store(&identity{cert: pair, roots: roots})
	return nil
}

// Node returns the name in the node's own certificate.
func (id *Identity) Node() balance.NodeID {
	node, _ := id.NodeOf(id.loaded.Load().cert.Leaf)
	return node
}

// NotAfter returns when the node's certificate expires.
func (id *Identity) NotAfter() time.Time { return id.loaded.Load().cert.Leaf.NotAfter }

// Server returns the configuration for the owner's listener ([crypto/tls.NewListener]): clients
// must have a certificate. Set [HandlerConfig].Certificate to [Identity.NodeOf] beside it.
func (id *Identity) Server() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			l := id.loaded.Load()
			return &tls.Config{
				MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{l.cert},
				ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: l.roots,
				// a resumed session would outlive the authority that verified it
				SessionTicketsDisabled: true,
			}, nil
		},
	}
}

// Client returns the configuration for one connection to an owner, whose certificate must name that
// node.
func (id *Identity) Client(owner balance.NodeID) *tls.Config {
	l := id.loaded.Load()
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: string(owner), RootCAs: l.roots,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &l.cert, nil // whichever authorities the owner names: the owner decides
		},
	}
}

// Dial turns a plain dial function into one for [Config].Dial.
func (id *Identity) Dial(
	dial func(ctx context.Context, owner balance.NodeID) (net.Conn, error),
) func(context.Context, balance.NodeID) (net.Conn, error) {
	return func(ctx context.Context, owner balance.NodeID) (net.Conn, error) {
		c, err := dial(ctx, owner)
		if err != nil {
			return nil, err
		}
		return tls.Client(c, id.Client(owner)), nil // the Transport waits for the handshake
	}
}

// NodeOf returns the node that a certificate names: its first DNS name, else its common name. It is
// a [HandlerConfig].Certificate that accepts every node that an authority vouches for.
func (*Identity) NodeOf(c *x509.Certificate) (balance.NodeID, error) {
	name := c.Subject.CommonName
	if len(c.DNSNames) > 0 {
		name = c.DNSNames[0]
	}
	if name == "" || strings.ContainsAny(name, "*") {
		return "", errors.New(
			"the certificate names no node: give it the node's name as its first DNS name",
		)
	}
	return balance.NodeID(name), nil
}
