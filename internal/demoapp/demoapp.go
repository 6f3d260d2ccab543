// Package demoapp is the small web app that the example proxy runs on its machines: the example's
// binary executed again.
//
//	func main() {
//		if demoapp.IsChild() {
//			os.Exit(demoapp.Main())
//		}
//		…
//	}
//
// It answers with what it knows of itself, and has a path for each kind of work a proxy should be
// tried with: slow, busy, large, streamed, upgraded, crashing.
package demoapp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

// The environment variables that the app reads, besides PORT, MACHINE, REGION and EPOCH.
const (
	childVariable = "DEMOAPP"      // 1: be the app
	bootVariable  = "DEMOAPP_BOOT" // how long to wait before listening, such as 8s
	tellVariable  = "DEMOAPP_TELL" // an address to connect to, for a moment, as soon as it listens
)

// shutdownTimeout is how long requests in flight may take after a SIGTERM. It is below the 5 s
// after which drivers kill.
var shutdownTimeout = 4 * time.Second

// The exit statuses of Main besides 0.
const (
	exitRuntime = 1
	exitUsage   = 2
	exitCrash   = 3
)

// IsChild reports whether this process was started to be the app.
func IsChild() bool { return os.Getenv(childVariable) == "1" }

// Env returns the environment that makes a process the app: pairs for the Env of a process
// driver. boot is how long it takes to boot; 0 means no longer than it must.
func Env(boot time.Duration) []string {
	env := []string{childVariable + "=1"}
	if boot > 0 {
		env = append(env, bootVariable+"="+boot.String())
	}
	return env
}

// Notify returns a pair for the environment by which the app connects to addr, for a moment, as
// soon as it listens.
func Notify(addr string) string { return tellVariable + "=" + addr }

// Main runs the app until SIGTERM or SIGINT and returns the exit status. It listens on
// 127.0.0.1:$PORT.
func Main() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	boot, config, err := fromEnvironment(os.Getenv)
	if err != nil {
		fmt.Fprintln(os.Stderr, "demoapp:", err)
		return exitUsage
	}
	select {
	case <-time.After(boot):
	case <-ctx.Done():
		return 0
	}
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", os.Getenv("PORT")))
	if err != nil {
		fmt.Fprintln(os.Stderr, "demoapp:", err)
		return exitRuntime
	}
	config.ReadyAt = time.Now()
	if addr := os.Getenv(tellVariable); addr != "" {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
		}
	}
	config.Crash = func() { os.Exit(exitCrash) }
	if err := Serve(ctx, l, config); err != nil {
		fmt.Fprintln(os.Stderr, "demoapp:", err)
		return exitRuntime
	}
	return 0
}

// fromEnvironment reads what the app is told about itself.
func fromEnvironment(getenv func(string) string) (boot time.Duration, c Config, err error) {
	if s := getenv(bootVariable); s != "" {
		if boot, err = time.ParseDuration(s); err != nil || boot < 0 {
			return 0, c, fmt.Errorf("%s=%q: want a duration of 0 or more, such as 8s", bootVariable, s)
		}
	}
	if s := getenv("PORT"); s == "" {
		return 0, c, errors.New("PORT is not set: set it to the port to listen on")
	} else if n, err := strconv.ParseUint(s, 10, 16); err != nil || n == 0 {
		return 0, c, fmt.Errorf("PORT=%q: want a number from 1 to 65535", s)
	}
	if s := getenv("EPOCH"); s != "" {
		if c.Epoch, err = strconv.ParseUint(s, 10, 64); err != nil {
			return 0, c, fmt.Errorf("EPOCH=%q: want a number of 0 or more", s)
		}
	}
	c.Machine, c.Region = getenv("MACHINE"), getenv("REGION")
	return boot, c, nil
}

// Serve answers requests on l until ctx ends, and then until those in flight are done or
// shutdownTimeout is over. Streams and WebSockets are told to end when ctx does.
func Serve(ctx context.Context, l net.Listener, c Config) error {
	app := New(c)
	// Both kinds of HTTP, since a proxy may speak either to a machine.
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: app, Protocols: protocols, ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	app.Close()
	grace, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	if server.Shutdown(grace) != nil {
		_ = server.Close()
	}
	app.upgraded.Wait() // the server knows nothing of upgraded connections; each ends soon after Close
	return nil
}
