// Package embedded runs a NATS server within the process, for fleets that have no other.
//
//	server, err := embedded.Start(embedded.Config{Listen: "10.0.0.7:4222", Dir: "/var/lib/ebb"})
//	...
//	defer server.Close()
//	conn, err := nats.Connect(server.URL(), nats.Config{Node: "worker-1", Server: server})
//
// It is exactly one server with one replica. While its process is down, nodes serve on with what
// they know, and agree again when it is back. The other nodes connect to its address. Servers of
// this package never form a cluster; if the server must outlive a machine, run nats-server
// separately.
package embedded

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Config configures a server.
type Config struct {
	// Listen is the host:port on which other processes reach it. "" means that only this process
	// uses it.
	Listen string
	// Dir is the folder of the store; required. One server at a time uses it.
	Dir string
	// Options is called last with the server's options, for TLS, accounts and permissions. Settings
	// of a cluster, of gateways and of leaf nodes are refused.
	Options func(*server.Options)
}

// Server is a running server.
type Server struct {
	s    *server.Server
	lock *os.File
}

// startTimeout bounds the start: it takes some 20 ms.
const startTimeout = 10 * time.Second

// Start starts a server, and returns when it can be used.
func Start(c Config) (*Server, error) {
	if c.Dir == "" {
		return nil, errors.New(
			"embedded: Config.Dir is empty: set it to a folder that outlives the process",
		)
	}
	o := &server.Options{
		ServerName: "ebb-embedded", JetStream: true, StoreDir: c.Dir, NoSigs: true, NoLog: true,
		DontListen: c.Listen == "",
	}
	if c.Listen != "" {
		host, port, err := net.SplitHostPort(c.Listen)
		if err == nil {
			o.Host = host
			o.Port, err = strconv.Atoi(port)
		}
		if err != nil {
			return nil, fmt.Errorf(
				"embedded: Config.Listen %q: want host:port, such as 127.0.0.1:4222", c.Listen,
			)
		}
		if o.Port == 0 {
			o.Port = server.RANDOM_PORT
		}
	}
	if c.Options != nil {
		c.Options(o)
	}
	if clustered(o) {
		return nil, errors.New("embedded: Config.Options sets up a cluster: embedded servers form none, " +
			"since nothing would say which of them has the store; run nats-server apart and connect to it")
	}
	lock, err := lockDir(c.Dir)
	if err != nil {
		return nil, err
	}
	s, err := start(o)
	if err != nil {
		lock.Close()
		return nil, err
	}
	return &Server{s, lock}, nil
}

func clustered(o *server.Options) bool {
	return o.Cluster.Port != 0 || o.Cluster.Name != "" || len(o.Routes) > 0 || o.Gateway.Name != "" ||
		o.LeafNode.Port != 0 || len(o.LeafNode.Remotes) > 0
}

func start(o *server.Options) (*server.Server, error) {
	if !o.DontListen && o.Port > 0 { // else the server would wait and retry
		addr := net.JoinHostPort(o.Host, strconv.Itoa(o.Port))
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return nil, fmt.Errorf("embedded: %w: if a server runs there, "+
				"connect to it with nats://%s instead of starting another", err, addr)
		}
		l.Close()
	}
	s, err := server.NewServer(o)
	if err != nil {
		return nil, fmt.Errorf("embedded: %w", err)
	}
	s.Start()
	if !s.ReadyForConnections(startTimeout) {
		s.Shutdown()
		return nil, fmt.Errorf("embedded: the server was not ready within %v", startTimeout)
	}
	return s, nil
}

// lockDir keeps a second server from using the folder.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("embedded: Config.Dir: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "ebb.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("embedded: Config.Dir: %w", err)
	}
	if err := lock(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("embedded: Config.Dir %s is in use by another server: "+
			"connect to that one instead of starting another: %w", dir, err)
	}
	return f, nil
}

// URL returns the URL at which other processes, and this one, reach the server.
func (s *Server) URL() string { return s.s.ClientURL() }

// InProcessConn returns a connection to the server that does not touch the network; it makes the
// server a nats.InProcessConnProvider.
func (s *Server) InProcessConn() (net.Conn, error) { return s.s.InProcessConn() }

// Close ends the server and waits until its store is written.
func (s *Server) Close() {
	s.s.Shutdown()
	s.s.WaitForShutdown()
	s.lock.Close()
}
