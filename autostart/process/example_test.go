//go:build linux || darwin

package process_test

import (
	"context"
	"fmt"
	"os"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/autostart/process"
	"github.com/ebbkit/ebb/balance"
)

// A machine is started, suspended, resumed and stopped, and its exit is reported.
func Example() {
	driver, err := process.New(process.Config{Command: "sleep 1000", Output: os.Stderr})
	if err != nil {
		fmt.Println(err) // names the field and what to do about it
		return
	}
	defer driver.Close() // no process is left behind, whatever happens
	ctx, cancel := context.WithCancel(context.Background())

	m := balance.Machine{ID: "nrt-1", App: "demo", Region: "nrt", Epoch: 1}
	booting, err := driver.Start(ctx, m)
	fmt.Println(booting.Resumed, err)

	fmt.Println(driver.Suspend(ctx, m))
	m.Epoch++
	booting, err = driver.Start(ctx, m)
	fmt.Println(booting.Resumed, err)

	fmt.Println(driver.Stop(ctx, m))
	// An owner watches all the time, in a goroutine of its own. A late one misses nothing.
	_ = driver.Watch(ctx, func(e machine.Exit) {
		fmt.Printf("%s at epoch %d: %s\n", e.ID, e.Epoch, e.Reason)
		cancel()
	})
	// Output:
	// false <nil>
	// <nil>
	// true <nil>
	// <nil>
	// nrt-1 at epoch 2: stopped: killed by signal: terminated
}

// A program that cannot run is found before the first start.
func ExampleNew() {
	_, err := process.New(process.Config{Command: "my-app --port $PORT"})
	fmt.Println(err)
	// Output: process: Config.Command "my-app --port $PORT": exec: "my-app": executable file not found in $PATH: install it or give its path (there is no shell: built-ins and aliases do not work)
}
