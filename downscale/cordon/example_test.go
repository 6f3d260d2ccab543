package cordon_test

import (
	"fmt"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale/cordon"
)

// An owner that stops one machine. The gate admits requests; the state machine says what to do.
func Example() {
	gate, err := balance.NewGate(balance.Limits{Soft: 10})
	if err != nil {
		fmt.Println(err)
		return
	}
	token, _ := gate.Start(0)
	gate.Ready(token)

	m := cordon.Machine{Config: cordon.Config{Quiet: time.Second, CordonMax: 30 * time.Second}}
	now := time.Unix(0, 0) // or time.Now, in a loop
	follow := func(c cordon.Command) {
		for c.Do != cordon.ActNone {
			fmt.Println(now.Unix(), m.Phase(), c.Do, c.Reason)
			next := cordon.Command{}
			switch c.Do {
			case cordon.ActCordon:
				if gen, ok := gate.Cordon(); ok {
					next = m.Done(now, c, gen)
				} else {
					next = m.Failed(now, c)
				}
			case cordon.ActUncordon:
				gate.Uncordon(c.Gate)
			case cordon.ActClose:
				if token, ok := gate.Close(c.Gate, c.Suspend); ok {
					next = m.Done(now, c, token)
				} else {
					next = m.Failed(now, c)
				}
			case cordon.ActStop: // call the driver, here at once
				next = m.Done(now, c, 0)
			case cordon.ActFinish:
				gate.Closed(c.Gate, c.Suspend)
			}
			c = next
		}
	}
	look := func() {
		l, _, used := gate.TakeSample()
		follow(m.Look(now, cordon.Look{
			Up:       l.State == balance.StateStarted,
			Cordoned: l.Cordon == balance.CordonSoft, Gen: l.CordonGen,
			InFlight: l.InFlight, Used: used, Touched: gate.Touched(),
			Acked: true, // this node is the only one
		}))
	}

	look()
	follow(m.Surplus(now, cordon.Order{Reason: "nobody needs it"}, true))
	gate.Enter(0, 0, gate.Load().CordonGen) // a request that knows the cordon: it had nothing better
	look()
	gate.Leave()
	follow(m.Surplus(now, cordon.Order{Reason: "nobody needs it"}, true))
	for ; !m.Resting(); now = now.Add(time.Second) {
		look()
	}
	fmt.Println(now.Unix(), m.Phase(), gate.State())
	// Output:
	// 0 soft-cordoned Cordon nobody needs it
	// 0 active Uncordon a request had no better machine
	// 0 soft-cordoned Cordon nobody needs it
	// 1 closing Close nobody needs it
	// 1 stopping Stop nobody needs it
	// 1 stopped Finish nobody needs it
	// 2 stopped stopped
}
