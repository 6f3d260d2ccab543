package node_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"

	"golang.org/x/sync/errgroup"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/backhaul"
	"github.com/ebbkit/ebb/backhaul/node"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/exchange"
)

// always is a driver of machines that always run, at one address.
type always struct{ addr string }

func (d always) Start(context.Context, balance.Machine) (machine.Booting, error) {
	return machine.Booting{Addr: d.addr}, nil
}
func (always) Stop(context.Context, balance.Machine) error    { return nil }
func (always) Suspend(context.Context, balance.Machine) error { return nil }
func (always) Watch(ctx context.Context, _ func(machine.Exit)) error {
	<-ctx.Done()
	return nil
}
func (always) Shutdown(context.Context) error { return nil }

// An edge and a worker of one cluster. In production each would be a process, with an exchange that
// connects the two.
func Example() {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "hello, ", r.URL.Path)
	}))
	defer app.Close()
	web := balance.App{ID: "web", Autostart: true, Autostop: balance.AutostopStop}
	engine, keys := exchange.NewMemory(exchange.MemoryConfig{}), []string{"a-secret-that-all-nodes-share"}
	hop, err := backhaul.Listen("127.0.0.1:0")
	check(err)
	worker, err := node.New(node.Config{
		Node: "worker-1", Role: node.RoleWorker, Exchange: engine.Connect("worker-1"), Keys: keys, Hop: hop,
		Apps:   []node.App{{App: web, Machines: 2}},
		Driver: always{app.Listener.Addr().String()},
	})
	check(err)
	edge, err := node.New(node.Config{
		Node: "edge-1", Role: node.RoleEdge, Exchange: engine.Connect("edge-1"), Keys: keys,
		Apps: []node.App{{App: web, Hosts: []string{"web.example"}}},
	})
	check(err)

	ctx, stop := context.WithCancel(context.Background())
	var running errgroup.Group
	running.Go(func() error { return worker.Run(ctx) })
	running.Go(func() error { return edge.Run(ctx) })

	heard(edge.Fleet(), "web", 2)
	answer := httptest.NewRecorder()
	edge.Handler().ServeHTTP(answer, httptest.NewRequest("GET", "http://web.example/you", nil))
	body, err := io.ReadAll(answer.Body)
	check(err)
	fmt.Println(answer.Code, string(body))

	stop()
	check(running.Wait())
	// Output: 200 hello, /you
}

// heard returns when a node knows that many machines of an app. Clients need not wait for that: a
// request for an app that the edge does not know yet waits for some seconds.
func heard(f *balance.Fleet, app balance.AppID, machines int) {
	rows := f.Watch()
	defer rows.Close()
	for {
		if s, ok := f.App(app); ok && s.Len() == machines {
			return
		}
		<-rows.C()
		rows.Take()
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
