package member

import (
	"encoding/json"
	"net/http"
	"runtime"
	"time"

	"github.com/ebbkit/ebb/balance/exchange"
)

// View is what a node knows of the others, as /nodes.json shows it.
type View struct {
	Node        string
	Region      string
	Role        string
	Started     time.Time
	Incarnation uint64 `json:",string"` // too large for scripts
	Others      []Other
	Stats       exchange.Stats
	Goroutines  int
}

// Other is another node as this one sees it.
type Other struct {
	Node        string
	Region      string
	State       string  // live, gone or left
	Incarnation uint64  `json:",string"`
	Age         float64 // seconds since it was heard
	Machines    int     // its own machines that are known here
	Behind      bool    // some of its rows have not arrived
	Acked       uint64  // the last message of this node's rows that it has applied
}

func (m *Member) view() View {
	f, link := m.file.Load(), m.node.Link()
	v := View{
		Node: f.Node, Region: f.Region, Role: string(m.c.Role), Started: m.started,
		Incarnation: link.Incarnation(), Stats: link.Stats(), Goroutines: runtime.NumGoroutine(),
		Others: []Other{},
	}
	for _, n := range link.Nodes() {
		v.Others = append(v.Others, Other{
			Node: string(n.ID), Region: n.Region, State: n.State, Incarnation: n.Incarnation,
			Age: time.Since(n.Heard).Seconds(), Machines: n.Machines, Behind: n.Behind, Acked: n.Acked,
		})
	}
	return v
}

// pages serves the node's status page and its view of the others.
func (m *Member) pages() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", m.node.StatusHandler())
	mux.HandleFunc("GET /nodes.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(m.view())
	})
	return mux
}
