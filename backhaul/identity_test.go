package backhaul

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/delay"
)

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	a := &authority{}
	a.cert = a.sign(t, &x509.Certificate{
		Subject: pkix.Name{
			CommonName: name,
		}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotAfter: time.Now().Add(1000 * time.Hour),
	})
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Certificate[0]})
	return a
}

func (a *authority) sign(t testing.TB, c *x509.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.SerialNumber, _ = rand.Int(rand.Reader, big.NewInt(1<<62))
	c.NotBefore = time.Now().Add(-time.Hour)
	parent, signer := c, any(key)
	if a.cert.Leaf != nil {
		parent, signer = a.cert.Leaf, a.cert.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// issue makes a node's certificate.
func (a *authority) issue(t testing.TB, node string, valid time.Duration) tls.Certificate {
	t.Helper()
	return a.sign(t, &x509.Certificate{
		Subject: pkix.Name{
			CommonName: "a node",
		}, DNSNames: []string{node}, NotAfter: time.Now().Add(valid),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert.Leaf)
	return p
}

// identityFiles are the files of an identity.
type identityFiles struct{ cert, key, ca string }

// files writes an identity to disk, where it may be written again.
func files(t testing.TB, dir string, cert tls.Certificate, cas ...*authority) identityFiles {
	t.Helper()
	f := identityFiles{
		filepath.Join(dir, "node.pem"), filepath.Join(dir, "node.key"), filepath.Join(dir, "ca.pem"),
	}
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	var roots []byte
	for _, ca := range cas {
		roots = append(roots, ca.pem...)
	}
	for name, b := range map[string][]byte{
		f.cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}),
		f.key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
		f.ca:   roots,
	} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// withIdentities makes the connections of a cluster mutual TLS.
func withIdentities(t *testing.T, c clusterConfig, edge, worker *Identity) clusterConfig {
	c.handler.Certificate = worker.NodeOf
	c.listen = func(l net.Listener) net.Listener { return tls.NewListener(l, worker.Server()) }
	c.dial = func(dial dialOwner) dialOwner { return edge.Dial(buffered(t, dial)) }
	return c
}

func loadIdentity(t *testing.T, f identityFiles) *Identity {
	t.Helper()
	id, err := LoadIdentity(f.cert, f.key, f.ca)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// Nodes know each other by certificates, and an owner by what the certificate says, not by what the
// edge says.
func TestNodesKnowEachOtherByCertificates(t *testing.T) {
	for _, major := range []int{1, 2} {
		synctest.Test(t, func(t *testing.T) {
			ca := newAuthority(t, "ca")
			var seen []balance.NodeID
			c := clusterConfig{
				handler: HandlerConfig{
					Trace: Trace{Event: func(e Event) { seen = append(seen, e.Node) }},
				},
			}
			k := newCluster(t, withIdentities(t, c,
				loadIdentity(t, files(t, t.TempDir(), ca.issue(t, "edge-7", time.Hour), ca)),
				loadIdentity(t, files(t, t.TempDir(), ca.issue(t, "worker", time.Hour), ca))))
			for range 2 {
				if got := k.do(t, "POST", "hello", major); got != "POST hello" {
					t.Errorf("HTTP/%d: %s", major, got)
				}
			}
			k.worker.draining.Store(true) // it bounces, and tells of whom
			k.edge.limits = hop.RetryLimits{}
			k.edge.RoundTrip(
				request(t, "GET", "http://web/", nil),
			) //nolint:errcheck,bodyclose // it is bounced
			if len(seen) == 0 || seen[0] != "edge-7" {
				t.Errorf("the owner knows the edge as %q", seen)
			}
		})
	}
}

// What is wrong with a certificate is said at the edge, and no request is executed.
func TestCertificatesThatDoNotFit(t *testing.T) {
	for _, tt := range []struct {
		name  string
		edge  func(t *testing.T, ca, other *authority, certs *bothCerts)
		words string
	}{
		{"the edge's is of another authority", func(t *testing.T, ca, other *authority, certs *bothCerts) {
			certs.edge = other.issue(t, "edge", time.Hour)
		}, "this node's certificate"},
		{"the edge has none", func(t *testing.T, ca, other *authority, certs *bothCerts) { certs.edge = tls.Certificate{} }, "this node's certificate"},
		{"the edge's has expired", func(t *testing.T, ca, other *authority, certs *bothCerts) {
			certs.edge = ca.issue(t, "edge", -time.Minute)
		}, "this node's certificate"},
		{"the owner's is of another authority", func(t *testing.T, ca, other *authority, certs *bothCerts) {
			certs.worker = other.issue(t, "worker", time.Hour)
		}, "RootCAs"},
		{"the owner's is of another node", func(t *testing.T, ca, other *authority, certs *bothCerts) {
			certs.worker = ca.issue(t, "worker-2", time.Hour)
		}, "ServerName"},
		{"the owner's has expired", func(t *testing.T, ca, other *authority, certs *bothCerts) {
			certs.worker = ca.issue(t, "worker", -time.Minute)
		}, "expired"},
	} {
		for _, major := range []int{1, 2} {
			synctest.Test(t, func(t *testing.T) {
				ca, other := newAuthority(t, "ca"), newAuthority(t, "other")
				certs := &bothCerts{
					edge: ca.issue(t, "edge", time.Hour), worker: ca.issue(t, "worker", time.Hour),
				}
				tt.edge(t, ca, other, certs)
				c := clusterConfig{
					config:  Config{tuning: tuning{spare: -1, failures: -1}},
					handler: HandlerConfig{Certificate: new(Identity).NodeOf},
				}
				c.listen = func(l net.Listener) net.Listener {
					return tls.NewListener(l, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{certs.worker}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.pool(), SessionTicketsDisabled: true})
				}
				c.dial = func(dial dialOwner) dialOwner {
					far := buffered(t, dial)
					return func(ctx context.Context, owner balance.NodeID) (net.Conn, error) {
						nc, err := far(ctx, owner)
						if err != nil {
							return nil, err
						}
						return tls.Client(
							nc,
							&tls.Config{
								ServerName: string(owner), RootCAs: ca.pool(),
								GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certs.edge, nil },
							},
						), nil
					}
				}
				k := newCluster(t, c)
				got := k.do(t, "POST", "hello", major)
				if !strings.HasPrefix(got, "denied: ") || !strings.Contains(got, tt.words) ||
					k.served.Load() != 0 {
					t.Errorf("%s, HTTP/%d: %s; %d executed", tt.name, major, got, k.served.Load())
				}
			})
		}
	}
}

// buffered makes a connection in memory hold what is on its way, as a kernel does.
func buffered(t *testing.T, dial dialOwner) dialOwner {
	links := delay.NewLinks()
	links.Set("edge", "worker", time.Millisecond)
	t.Cleanup(func() { links.Close() })
	return func(ctx context.Context, owner balance.NodeID) (net.Conn, error) {
		return links.WrapDial(
			"edge", "worker",
			func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, owner) },
		)(
			ctx, "", "",
		)
	}
}

// An identity accepts an owner that has the name and the authority, and no other.
func TestAnIdentityKnowsItsOwner(t *testing.T) {
	for _, tt := range []struct {
		name  string
		owner string
		same  bool // authority
		want  string
	}{
		{"the owner", "worker", true, "POST hello"},
		{"another node", "worker-2", true, "denied: "},
		{"another authority", "worker", false, "denied: "},
	} {
		synctest.Test(t, func(t *testing.T) {
			ca, other := newAuthority(t, "ca"), newAuthority(t, "other")
			edge := loadIdentity(t, files(t, t.TempDir(), ca.issue(t, "edge", time.Hour), ca))
			its := ca
			if !tt.same {
				its = other
			}
			worker := loadIdentity(t, files(t, t.TempDir(), its.issue(t, tt.owner, time.Hour), its, ca))
			k := newCluster(
				t,
				withIdentities(
					t, clusterConfig{config: Config{tuning: tuning{spare: -1, failures: -1}}}, edge, worker,
				),
			)
			if got := k.do(t, "POST", "hello", 1); !strings.HasPrefix(got, tt.want) ||
				(k.served.Load() == 1) != (tt.want == "POST hello") {
				t.Errorf("%s: %s", tt.name, got)
			}
		})
	}
}

// And an owner accepts no edge that has no certificate, or one that it does not know.
func TestAnIdentityKnowsItsEdges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, other := newAuthority(t, "ca"), newAuthority(t, "other")
		worker := loadIdentity(t, files(t, t.TempDir(), ca.issue(t, "worker", time.Hour), ca))
		stranger := loadIdentity(t, files(t, t.TempDir(), other.issue(t, "edge", time.Hour), other, ca))
		k := newCluster(
			t,
			withIdentities(
				t, clusterConfig{config: Config{tuning: tuning{spare: -1, failures: -1}}}, stranger, worker,
			),
		)
		if got := k.do(t, "POST", "hello", 1); !strings.HasPrefix(got, "denied: ") ||
			k.served.Load() != 0 {
			t.Error(got)
		}
	})
}

type bothCerts struct{ edge, worker tls.Certificate }

// A node whose certificate nobody verified, or that the owner does not want, is a stranger.
func TestACertificateHasToBeVerifiedAndAccepted(t *testing.T) {
	for _, tt := range []struct {
		name   string
		auth   tls.ClientAuthType
		accept func(*x509.Certificate) (balance.NodeID, error)
		want   string
	}{
		{"verified", tls.VerifyClientCertIfGiven, new(Identity).NodeOf, "POST hello"},
		{"not verified", tls.RequireAnyClientCert, new(Identity).NodeOf, "denied: "},
		{"not asked for", tls.NoClientCert, new(Identity).NodeOf, "denied: "},
		{"not accepted", tls.VerifyClientCertIfGiven, func(*x509.Certificate) (balance.NodeID, error) { return "", errors.New("no guests") }, "denied: "},
	} {
		synctest.Test(t, func(t *testing.T) {
			ca := newAuthority(t, "ca")
			edge := loadIdentity(t, files(t, t.TempDir(), ca.issue(t, "edge", time.Hour), ca))
			worker := ca.issue(t, "worker", time.Hour)
			c := withIdentities(
				t, clusterConfig{config: Config{tuning: tuning{failures: -1, spare: -1}}}, edge, nil,
			)
			c.handler.Certificate = tt.accept
			c.listen = func(l net.Listener) net.Listener {
				return tls.NewListener(
					l,
					&tls.Config{
						Certificates: []tls.Certificate{worker}, ClientAuth: tt.auth, ClientCAs: ca.pool(),
						SessionTicketsDisabled: true,
					},
				)
			}
			k := newCluster(t, c)
			if got := k.do(t, "POST", "hello", 1); !strings.HasPrefix(got, tt.want) ||
				(k.served.Load() == 1) != (tt.want == "POST hello") {
				t.Errorf("%s: %s", tt.name, got)
			}
		})
	}
}

// Certificates and their authority are replaced under traffic, one node after the other.
func TestCertificatesChangeWithoutAGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, next := newAuthority(t, "old"), newAuthority(t, "next")
		edgeDir, workerDir := t.TempDir(), t.TempDir()
		edge := loadIdentity(t, files(t, edgeDir, old.issue(t, "edge", time.Hour), old))
		worker := loadIdentity(t, files(t, workerDir, old.issue(t, "worker", time.Hour), old))
		k := newCluster(
			t,
			withIdentities(
				t, clusterConfig{config: Config{tuning: tuning{spare: -1, maxIdle: -1}}}, edge, worker,
			),
		) // each request has a new connection
		served := func(when string) {
			t.Helper()
			if got := k.do(t, "POST", "hello", 1); got != "POST hello" {
				t.Errorf("%s: %s", when, got)
			}
		}
		served("at the beginning")
		for _, step := range []struct {
			name string
			ca   *authority
			cas  []*authority
		}{
			{"both authorities", old, []*authority{old, next}},
			{"a certificate of the next", next, []*authority{old, next}},
			{"the next authority alone", next, []*authority{next}},
		} {
			files(t, edgeDir, step.ca.issue(t, "edge", 2*time.Hour), step.cas...)
			if err := edge.Reload(); err != nil {
				t.Fatal(err)
			}
			served(step.name + ", at the edge")
			files(t, workerDir, step.ca.issue(t, "worker", 2*time.Hour), step.cas...)
			if err := worker.Reload(); err != nil {
				t.Fatal(err)
			}
			served(step.name + ", at both")
		}
		if edge.Node() != "edge" || !edge.NotAfter().After(time.Now().Add(time.Hour)) {
			t.Errorf("%s until %v", edge.Node(), edge.NotAfter())
		}
		// A file that is half written changes nothing.
		if err := os.WriteFile(filepath.Join(edgeDir, "node.pem"), []byte("-----BEGIN"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := edge.Reload(); err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("half a file: %v", err)
		}
		served("after a reload that failed")
	})
}

func TestIdentityErrorsNameFieldAndRemedy(t *testing.T) {
	ca, other := newAuthority(t, "ca"), newAuthority(t, "other")
	for _, tt := range []struct {
		name string
		make func(dir string) identityFiles
		want []string
	}{
		{"no name", func(dir string) identityFiles { return identityFiles{cert: "a", ca: "b"} }, []string{"key", "PEM"}},
		{"no file", func(dir string) identityFiles {
			return identityFiles{dir + "/x", dir + "/y", dir + "/z"}
		}, []string{"certificate", "no such file"}},
		{"no authority", func(dir string) identityFiles { return files(t, dir, ca.issue(t, "n", time.Hour)) }, []string{"authorities", "PEM"}},
		{"another authority", func(dir string) identityFiles { return files(t, dir, ca.issue(t, "n", time.Hour), other) }, []string{"certificate", "authority"}},
		{"expired", func(dir string) identityFiles { return files(t, dir, ca.issue(t, "n", -time.Minute), ca) }, []string{"certificate", "expired"}},
		{"for clients only", func(dir string) identityFiles {
			return files(t, dir, ca.sign(t, &x509.Certificate{DNSNames: []string{"n"}, NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}), ca)
		}, []string{"certificate", "servers and clients"}},
		{"for servers only", func(dir string) identityFiles {
			return files(t, dir, ca.sign(t, &x509.Certificate{DNSNames: []string{"n"}, NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}), ca)
		}, []string{"certificate", "servers and clients"}},
		{"nameless", func(dir string) identityFiles {
			return files(t, dir, ca.sign(t, &x509.Certificate{NotAfter: time.Now().Add(time.Hour)}), ca)
		}, []string{"certificate", "DNS name"}},
	} {
		f := tt.make(t.TempDir())
		_, err := LoadIdentity(f.cert, f.key, f.ca)
		for _, want := range tt.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want something with %q", tt.name, err, want)
			}
		}
	}
	if _, err := new(Identity).NodeOf(&x509.Certificate{DNSNames: []string{"*.example.net"}}); err == nil {
		t.Error("a wildcard names a node")
	}
	if n, err := new(Identity).NodeOf(&x509.Certificate{Subject: pkix.Name{CommonName: "edge"}}); n != "edge" ||
		err != nil {
		t.Errorf("by the common name: %q, %v", n, err)
	}
}

// An authority that is not trusted any more lets nobody in, not by a session of earlier either.
func TestASessionDoesNotOutliveItsAuthority(t *testing.T) {
	old, next := newAuthority(t, "old"), newAuthority(t, "next")
	dir := t.TempDir()
	worker := loadIdentity(t, files(t, dir, old.issue(t, "worker", time.Hour), old))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for tl := tls.NewListener(l, worker.Server()); ; {
			c, err := tl.Accept()
			if err != nil {
				return
			}
			go func() { c.Write([]byte("x")); c.Close() }()
		}
	}()
	client := &tls.Config{
		InsecureSkipVerify: true, ServerName: "worker",
		Certificates:       []tls.Certificate{old.issue(t, "edge", time.Hour)},
		ClientSessionCache: tls.NewLRUClientSessionCache(1),
	}
	connect := func() error {
		c, err := tls.Dial("tcp", l.Addr().String(), client)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
		if err == nil && c.ConnectionState().DidResume {
			t.Error("a session is resumed")
		}
		return err
	}
	for range 2 {
		if err := connect(); err != nil {
			t.Fatal(err)
		}
	}
	files(t, dir, next.issue(t, "worker", time.Hour), next)
	if err := worker.Reload(); err != nil {
		t.Fatal(err)
	}
	if err := connect(); err == nil {
		t.Error("a certificate of the old authority is good for another connection")
	}
}

// A node's certificate may be signed by one that an authority has signed, and comes with it.
func TestACertificateMayHaveOneInBetween(t *testing.T) {
	ca := newAuthority(t, "ca")
	between := &authority{}
	between.cert = ca.sign(t, &x509.Certificate{
		Subject: pkix.Name{
			CommonName: "between",
		}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotAfter: time.Now().Add(time.Hour),
	})
	f := files(t, t.TempDir(), between.issue(t, "edge", time.Hour), ca)
	if _, err := LoadIdentity(f.cert, f.key, f.ca); err == nil {
		t.Error("a certificate is accepted whose signer is not known")
	}
	leaf, err := os.ReadFile(f.cert)
	if err != nil {
		t.Fatal(err)
	}
	chain := append(
		leaf,
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: between.cert.Certificate[0]})...)
	if err := os.WriteFile(f.cert, chain, 0o600); err != nil {
		t.Fatal(err)
	}
	if id, err := LoadIdentity(f.cert, f.key, f.ca); err != nil || id.Node() != "edge" {
		t.Errorf("with the one in between: %v", err)
	}
}
