//go:build linux

package process_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/balance"
)

// otherFamily listens at the right port of the wrong family: where "localhost" leads on many hosts.
func otherFamily() int {
	l, err := net.Listen("tcp6", net.JoinHostPort("::1", os.Getenv("PORT")))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("listening at", l.Addr())
	select {}
}

// A failed start is reported with the last line of the program, and with where it listens instead.
func TestStartThatComesToNothing(t *testing.T) {
	for kind, want := range map[string]string{
		"moaner":      "nosuchmodule",
		"otherFamily": "it listens at [::1]:",
	} {
		t.Run(kind, func(t *testing.T) {
			if l, err := net.Listen("tcp6", "[::1]:0"); err != nil {
				t.Skip(err)
			} else {
				l.Close()
			}
			c := config(kind)
			c.Output = nil
			d := newDriver(t, c)
			fleet, err := balance.NewFleet(balance.FleetConfig{Node: "n", Region: "nrt"})
			if err != nil {
				t.Fatal(err)
			}
			m := aMachine()
			if _, err := fleet.Host(m); err != nil {
				t.Fatal(err)
			}
			failed := make(chan string, 1)
			s, err := machine.NewStarter(fleet, d, machine.Config{Trace: machine.Trace{
				Failed: func(m balance.Machine) { failed <- m.Fault },
			}})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- s.Run(ctx) }()
			if _, err := s.Start(ctx, m); err != nil {
				t.Fatal(err)
			}
			if fault := <-failed; !strings.Contains(fault, want) {
				t.Errorf("fault %q, want it to say %q", fault, want)
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

func init() { children["otherFamily"] = otherFamily }
