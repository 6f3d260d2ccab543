package node

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ebbkit/ebb/backhaul"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/exchange"
)

// identities makes certificates of nodes, signed by one authority.
func identities(t *testing.T, nodes ...string) (ids []*backhaul.Identity) {
	t.Helper()
	dir, serial := t.TempDir(), int64(0)
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	issue := func(c, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if signer == nil {
			parent, signer = c, key
		}
		serial++
		c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(
			serial,
		), time.Now().
			Add(-time.Hour),
			time.Now().
				Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert, key
	}
	ca, caKey := issue(&x509.Certificate{
		Subject: pkix.Name{
			CommonName: "ca",
		}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil, nil)
	caFile := write("ca.pem", "CERTIFICATE", ca.Raw)
	for _, n := range nodes {
		cert, key := issue(&x509.Certificate{
			DNSNames:    []string{n},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}, ca, caKey)
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		id, err := backhaul.LoadIdentity(write(n+".pem", "CERTIFICATE", cert.Raw), write(n+".key", "PRIVATE KEY", der), caFile)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	return ids
}

// Nodes with certificates send requests, orders and probes over the sockets of this host.
func TestNodesOverSockets(t *testing.T) {
	app := httptest.NewServer(
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello") }),
	)
	defer app.Close()
	engine := exchange.NewMemory(exchange.MemoryConfig{})
	ids := identities(t, "w1", "e1")
	config := func(id balance.NodeID, role Role, who *backhaul.Identity) Config {
		probe, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return Config{
			Node: id, Role: role, Region: "r-" + string(id), Exchange: engine.Connect(id),
			Keys: []string{
				"the-key-of-the-whole-town",
			}, Identity: who, Probe: probe, Apps: []App{{App: web}},
		}
	}
	worker, edge := config("w1", RoleWorker, ids[0]), config("e1", RoleEdge, ids[1])
	hop, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	worker.Hop, worker.Driver, worker.Apps[0].Machines = hop, elsewhere{
		app.Listener.Addr().String(),
	}, 1
	var nodes []*Node
	for _, c := range []Config{worker, edge} {
		n, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		running(t, n.Run)
		nodes = append(nodes, n)
	}
	w := httptest.NewRecorder()
	nodes[1].Handler().ServeHTTP(w, httptest.NewRequest("GET", "http://web/", nil))
	if w.Code != 200 || w.Body.String() != "hello" {
		t.Errorf("%d %q", w.Code, w.Body)
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); ; <-tick.C {
		if _, known := nodes[1].peers.mesh.RTT("r-w1"); known {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("how far the worker is does not become known")
		}
	}
	if d, ok := nodes[1].peers.rtt("w1"); !ok || d <= 0 {
		t.Errorf("%v, %v", d, ok)
	}
}
