package rtt_test

import (
	"context"
	"fmt"
	"net"
	"sync"

	"github.com/ebbkit/ebb/rtt"
)

// Two nodes on one machine measure each other.
func Example() {
	key := []byte("thirty-two bytes, better random!")
	measured := make(chan struct{})
	var once sync.Once

	fra, err := rtt.New(
		rtt.Config{ID: "fra-1", Region: "fra", Key: key, Listen: "127.0.0.1:0"},
	)
	if err != nil {
		panic(err)
	}
	ams, err := rtt.New(rtt.Config{
		ID: "ams-1", Region: "ams", Key: key, Listen: "127.0.0.1:0",
		Peers: func() []rtt.Node { return []rtt.Node{fra.Self()} },
		Trace: rtt.Trace{Table: func(t *rtt.Table) {
			if _, ok := t.RTT("fra"); ok {
				once.Do(func() { close(measured) })
			}
		}},
	})
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, m := range []*rtt.Mesh{fra, ams} {
		wg.Go(func() {
			if err := m.Run(ctx); err != nil {
				fmt.Println(err)
			}
		})
	}
	<-measured

	d, ok := ams.RTT("fra")
	fmt.Println("fra is measured:", ok && d > 0)
	d, ok = ams.RTT("ams")
	fmt.Println("the own region:", d, ok)
	d, ok = ams.RTT("nrt")
	fmt.Println("unknown is not near:", d, ok)
	t := ams.Table() // everything that is known, at one moment
	for _, r := range t.Regions() {
		fmt.Println("region", r.Name, r.State, "by", r.Node)
	}
	for node, s := range t.All() {
		fmt.Println("node", node.ID, "in", node.Region, s.Source, s.Base > 0, s.Loss.Value())
	}
	cancel()
	wg.Wait()
	// Output:
	// fra is measured: true
	// the own region: 0s true
	// unknown is not near: 0s false
	// region fra fresh by fra-1
	// node fra-1 in fra udp true 0
}

// Keys change without a gap in three rounds over all nodes.
func ExampleMesh_SetKeys() {
	before, after := []byte("thirty-two bytes, better random!"), []byte("another one of thirty-two bytes!")
	m, err := rtt.New(rtt.Config{ID: "ams-1", Region: "ams", Key: before, Listen: "127.0.0.1:0"})
	if err != nil {
		panic(err)
	}
	defer m.Close()
	fmt.Println("both are believed, the old one is used:", m.SetKeys(before, after))
	fmt.Println("both are believed, the new one is used:", m.SetKeys(after, before))
	fmt.Println("the old one is gone:", m.SetKeys(after))
	fmt.Println(m.SetKeys([]byte("short")))
	// Output:
	// both are believed, the old one is used: <nil>
	// both are believed, the new one is used: <nil>
	// the old one is gone: <nil>
	// rtt: key 1 of 1 has 5 bytes: use at least 16
}

// A connection to a peer that exists anyway can measure the path as well.
func ExampleMesh_Observe() {
	m, err := rtt.New(rtt.Config{
		ID: "ams-1", Region: "ams", Listen: "127.0.0.1:0",
		Key: []byte("thirty-two bytes, better random!"),
	})
	if err != nil {
		panic(err)
	}
	defer m.Close()
	report := func(peer string, c net.Conn) bool { // occasionally, for each connection
		d, ok := rtt.MinRTT(c)
		return ok && m.Observe(peer, d)
	}
	c, _ := net.Pipe()
	fmt.Println("a pipe has no round trip:", report("fra-1", c))
	// Output:
	// a pipe has no round trip: false
}
