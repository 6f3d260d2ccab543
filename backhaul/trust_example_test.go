package backhaul_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/backhaul"
	"github.com/ebbkit/ebb/balance"
)

// Nodes show each other certificates. A certificate that is about to expire is replaced while requests go on.
func ExampleIdentity() {
	dir, err := os.MkdirTemp("", "identity")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	ca := newCA()
	edgeID, err := backhaul.LoadIdentity(ca.issue(dir, "edge-1"))
	if err != nil {
		fmt.Println(err)
		return
	}
	workerID, err := backhaul.LoadIdentity(ca.issue(dir, "worker-1"))
	if err != nil {
		fmt.Println(err)
		return
	}

	// The worker: clients have to show a certificate of the same authority.
	worker, _ := balance.NewFleet(balance.FleetConfig{Node: "worker-1", Region: "nrt"})
	_, app := host(worker, "m1")
	defer app.Close()
	handler, err := backhaul.NewHandler(worker, backhaul.HandlerConfig{Certificate: workerID.NodeOf})
	if err != nil {
		fmt.Println(err)
		return
	}
	server, _ := backhaul.NewServer(handler, backhaul.ServerConfig{})
	defer server.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	go server.Serve(tls.NewListener(l, workerID.Server()))

	// The edge: the owner of a machine has to show a certificate with its name.
	edge, _ := balance.NewFleet(balance.FleetConfig{Node: "edge-1", Region: "nrt"})
	rows := worker.Watch()
	edge.Apply(rows.Take()...)
	b, _ := balance.New(edge, balance.Config{})
	transport, err := backhaul.NewTransport(backhaul.NoWait(b), backhaul.Config{
		Dial: edgeID.Dial(func(ctx context.Context, owner balance.NodeID) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", l.Addr().String()) // the address of that owner
		}),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer transport.Close()
	client := &http.Client{Transport: transport}
	say := func() {
		resp, err := client.Get("http://web/")
		if err != nil {
			fmt.Println(err)
			return
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		fmt.Println(resp.StatusCode, string(body))
	}
	say()

	ca.issue(dir, "worker-1") // however new files come
	fmt.Println(workerID.Reload())
	transport.CloseIdleConnections()
	say()
	fmt.Println(edgeID.Node(), "knows", workerID.Node())
	// Output:
	// 200 m1 says hello
	// <nil>
	// 200 m1 says hello
	// edge-1 knows worker-1
}

// A Handler in a server that serves other things as well, with the key of the cluster.
func ExampleHandler_Listener() {
	fleet, _ := balance.NewFleet(balance.FleetConfig{Node: "worker-1", Region: "nrt"})
	handler, err := backhaul.NewHandler(
		fleet, backhaul.HandlerConfig{Keys: []string{"4f6c3c0e1f5a4b0d8a6b7c5d9e2f1a30"}},
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	server := &http.Server{
		Handler: handler,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return handler.ConnContext(autostart.ConnContext(ctx, c), c)
		},
	}
	defer server.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	go server.Serve(handler.Listener(l))
	resp, err := http.Get("http://" + l.Addr().String()) // nobody of the cluster
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)
	// Output: 403 Forbidden
}

// ca is an authority for the examples; in the field that is a program, or a service.
type ca struct {
	cert *x509.Certificate
	der  []byte
	key  *ecdsa.PrivateKey
}

func newCA() *ca {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(
			1,
		), Subject: pkix.Name{CommonName: "nodes of the cluster"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return &ca{c, der, key}
}

// issue writes a node's certificate and key, and the authority's certificate.
func (a *ca) issue(dir, node string) (certFile, keyFile, caFile string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: []string{node},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, &key.PublicKey, a.key)
	if err != nil {
		panic(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(err)
	}
	write := func(name, kind string, b []byte) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}), 0o600); err != nil {
			panic(err)
		}
		return name
	}
	return write(node+".pem", "CERTIFICATE", der), write(node+".key", "PRIVATE KEY", private),
		write("ca.pem", "CERTIFICATE", a.der)
}
