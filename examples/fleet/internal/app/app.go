// Package app is the built-in app of the fleet: a small web server that says who answers. If it is
// told to, it keeps a record of what it executes, by which others can check the fleet.
package app

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

// The environment of the app, beside what the driver sets.
const (
	envApp    = "FLEET_APP"
	envRecord = "FLEET_RECORD" // a folder; empty: no record is kept
	envHard   = "FLEET_HARD"   // how many requests it may get at a time
	envBoot   = "FLEET_BOOT"   // how long it takes to start
)

// HeaderID is the header with a request's ID in the record.
const HeaderID = "Fleet-Id"

// Env returns the environment in which this program is the app.
func Env(record string, hard int, boot time.Duration) []string {
	return []string{
		envApp + "=1", envRecord + "=" + record, envHard + "=" + strconv.Itoa(hard),
		envBoot + "=" + boot.String(),
	}
}

// IsApp reports whether this process is the app.
func IsApp() bool { return os.Getenv(envApp) != "" }

// Main is the app's main function; it returns the exit status.
func Main() int {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "app:", err)
		return 1
	}
	return 0
}

func run() error {
	boot, err := time.ParseDuration(os.Getenv(envBoot))
	if err != nil {
		return err
	}
	a := &app{}
	if a.hard, err = strconv.ParseInt(os.Getenv(envHard), 10, 64); err != nil {
		return err
	}
	if dir := os.Getenv(envRecord); dir != "" {
		name := fmt.Sprintf("%s-%d", os.Getenv("MACHINE"), os.Getpid())
		a.record, err = os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	select {
	case <-time.After(boot):
	case <-ctx.Done():
		return nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv("PORT"))
	if err != nil {
		return err
	}
	server := &http.Server{Handler: a}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return server.Shutdown(last)
}

type app struct {
	record   *os.File // nil: no record is kept
	hard     int64
	inFlight atomic.Int64
}

// note appends a line to the record in one write, so that the line is complete or missing.
func (a *app) note(format string, args ...any) (err error) {
	if a.record != nil {
		_, err = fmt.Fprintf(a.record, format, args...)
	}
	return err
}

// waitMax bounds how long a request may ask for its answer to take.
const waitMax = time.Minute

// ServeHTTP says who answers, after ?ms= milliseconds.
func (a *app) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/healthz" {
		fmt.Fprintln(w, "ok")
		return
	}
	n := a.inFlight.Add(1)
	defer a.inFlight.Add(-1)
	id := r.Header.Get(HeaderID)
	if id != "" {
		if err := a.note("S %s\n", id); err != nil {
			http.Error(w, err.Error(), http.StatusInsufficientStorage) // the record would mislead
			return
		}
		defer a.note("E %s\n", id) //nolint:errcheck // nobody counts them
	}
	if a.hard > 0 && n > a.hard {
		if err := a.note("X %d\n", n); err != nil {
			fmt.Fprintln(os.Stderr, "app:", err)
		}
	}
	ms, _ := strconv.Atoi(r.URL.Query().Get("ms"))
	select {
	case <-time.After(min(time.Duration(ms)*time.Millisecond, waitMax)):
	case <-r.Context().Done():
		return
	}
	h := w.Header()
	h.Set("X-Machine", os.Getenv("MACHINE"))
	h.Set("X-Region", os.Getenv("REGION"))
	fmt.Fprintf(w, "Hello from machine %s in region %s, with %d in flight.\n", os.Getenv("MACHINE"),
		os.Getenv("REGION"), n)
}
