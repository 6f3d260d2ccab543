package backhaul_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/ebbkit/ebb/backhaul"
	"github.com/ebbkit/ebb/balance"
)

// An owner serves the hop; HTTP/1.1 and HTTP/2 come in at the same port.
func ExampleNewServer() {
	fleet, _ := balance.NewFleet(balance.FleetConfig{Node: "worker-1", Region: "nrt"})
	handler, err := backhaul.NewHandler(fleet, backhaul.HandlerConfig{
		MachineConfig: backhaul.MachineConfig{
			H2: func(m balance.Machine) bool { return m.App == "grpc" }, EpochHeader: "Ebb-Epoch",
		}, Keys: []string{"secret"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	server, err := backhaul.NewServer(handler, backhaul.ServerConfig{})
	if err != nil {
		fmt.Println(err)
		return
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	served := make(chan error)
	go func() { served <- server.Serve(l) }()

	// To end: bounce what still comes, wait for what is under way, then close.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	fmt.Println(handler.Shutdown(ctx), server.Shutdown(ctx))
	fmt.Println(<-served == http.ErrServerClosed)
	// Output:
	// <nil> <nil>
	// true
}

// A front door lets no client have all connections.
func ExampleLimitListener() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	refused := make(chan string)
	door, err := backhaul.LimitListener(
		l, backhaul.LimitConfig{PerClient: 1, Refused: func(client string) { refused <- client }},
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer door.Close()
	go func() {
		for {
			if _, err := door.Accept(); err != nil {
				return
			}
		}
	}()
	for range 2 {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			fmt.Println(err)
			return
		}
		defer c.Close()
	}
	fmt.Println("one too many from", <-refused)
	// Output: one too many from 127.0.0.1
}
