//go:build linux

package process_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/balance"
)

// A machine that somebody has stopped with SIGSTOP accepts connections and answers nothing. Even
// with the default check it is found and restarted, and requests that wait for its answer are
// freed.
func TestFrozenMachineIsRestarted(t *testing.T) {
	fleet, err := balance.NewFleet(balance.FleetConfig{Node: "here", Region: "home"})
	if err != nil {
		t.Fatal(err)
	}
	c := config("serve")
	c.StopTimeout = 0 // it dies of SIGTERM
	failing, ready := make(chan error, 8), make(chan balance.Machine, 8)
	d := newDriver(t, c)
	s, err := machine.NewStarter(fleet, d, machine.Config{
		Check: machine.Check{
			Every: 20 * time.Millisecond, Timeout: patience,
		},
		Trace: machine.Trace{
			Ready: func(m balance.Machine, _ bool, _ time.Duration) { ready <- m },
			Health: func(_ balance.Machine, h balance.Health, err error) {
				if h == balance.HealthFailing {
					failing <- err
				}
			},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	m := aMachine()
	if _, err := fleet.Host(m); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	if a, err := s.Start(ctx, m); err != nil || a != balance.StartAccepted {
		t.Fatalf("start: %v, %v", a, err)
	}
	m = <-ready
	get := func(path string) (string, error) {
		resp, err := http.Get("http://" + m.Addr + path)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return strings.TrimSpace(string(b)), err
	}
	first, err := get("/pid")
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(first)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(-pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	stuck := make(chan error, 1)
	go func() {
		_, err := get("/pid")
		stuck <- err
	}()
	if err := <-failing; !strings.Contains(fmt.Sprint(err), "SIGSTOP") {
		t.Errorf("failing: %v, want that it is stopped", err)
	}
	// The restart stops it first: a stopped process can still be ended.
	if err := d.Stop(ctx, m); err != nil {
		t.Error(err)
	}
	<-stuck // with an answer that it gave when it was resumed to end, or without
	if _, err := get("/pid"); err == nil {
		t.Error("it answers after its stop")
	}
}
