package status

import (
	"net/http"
	"time"
)

// Snapshot is the content of /status.json. Scripts depend on the names; fields may be added, never
// renamed.
type Snapshot struct {
	Nodes    []Node    `json:"nodes"`
	Machines []Machine `json:"machines"`
	RTT      []RTT     `json:"rtt"`
	Parked   int       `json:"parked"` // requests waiting for a machine

	// The fields below are optional; the page leaves out those that are zero.

	Title    string    `json:"title,omitempty"`    // what the page is about, such as the command that runs
	Started  time.Time `json:"started,omitzero"`   // when the process started; a change makes the page start over
	Requests uint64    `json:"requests,omitempty"` // requests answered since then
	InFlight int       `json:"in_flight"`          // requests in flight at the edges, parked ones included

	// AutostartOff says that requests do not wake machines.
	AutostartOff bool `json:"autostart_off,omitempty"`

	// Also names the optional resources that are served: "history", "links", "picks" and "stop".
	// [Handler] fills it in.
	Also []string `json:"also,omitempty"`
}

// Node is a process that runs the library, or plays the role of one.
type Node struct {
	ID     string `json:"id"`
	Region string `json:"region"`
	Role   string `json:"role"`            // "edge", "worker", or both with a plus sign
	Place  string `json:"place,omitempty"` // what people call the region, such as "Tokyo"
}

// Machine is a machine and its state.
type Machine struct {
	ID       string `json:"id"`
	App      string `json:"app"`
	Region   string `json:"region"`
	Owner    string `json:"owner"`
	Revision string `json:"revision"`
	State    string `json:"state"`  // stopped starting started stopping suspending suspended failed
	Health   string `json:"health"` // unknown passing failing
	Cordon   string `json:"cordon"` // none soft hard
	Epoch    uint64 `json:"epoch"`
	Load     int    `json:"load"` // requests in flight
	Soft     int    `json:"soft"` // 0 means none
	Hard     int    `json:"hard"` // 0 means none

	// Fault says why the last start or run failed, what a slow start is waiting for, or how the
	// answers of a running machine fail; for people.
	Fault string `json:"fault,omitempty"`
}

// RTT is a measured round trip between two regions, or two nodes.
type RTT struct {
	From string  `json:"from"`
	To   string  `json:"to"`
	MS   float64 `json:"ms"`
	Loss float64 `json:"loss"` // 0 to 1

	// State says how current the figures are: fresh, stale or lost; empty means fresh.
	State string `json:"state,omitempty"`
}

// normal returns s with empty lists instead of nil ones: scripts need not handle null.
func (s Snapshot) normal() Snapshot {
	if s.Nodes == nil {
		s.Nodes = []Node{}
	}
	if s.Machines == nil {
		s.Machines = []Machine{}
	}
	if s.RTT == nil {
		s.RTT = []RTT{}
	}
	return s
}

// Picks is what a [Source] also implements if it samples where requests go, and why. The method is
// called concurrently, and once a second while the page is open.
type Picks interface {
	// Picks returns the latest samples, newest first: some dozens, not thousands. The caller does
	// not change them.
	Picks() []Pick
}

// Pick is where a request went, and why.
type Pick struct {
	Time       time.Time   `json:"time"`
	Node       string      `json:"node"` // that made the pick
	App        string      `json:"app"`
	Machine    string      `json:"machine"` // empty when there was none
	Region     string      `json:"region"`
	Reason     string      `json:"reason"`     // in a sentence
	Candidates []Candidate `json:"candidates"` // that were looked at, best first
}

// Candidate is a machine that a pick looked at, as the node saw it at that time.
type Candidate struct {
	Machine string   `json:"machine"`
	Region  string   `json:"region"`
	Load    float64  `json:"load"`   // requests in flight, an estimate
	Soft    int      `json:"soft"`   // 0 means none
	Hard    int      `json:"hard"`   // 0 means none
	RTT     *float64 `json:"rtt_ms"` // to its region; null means not measured
	Note    string   `json:"note"`   // what else counted for or against it
}

func listPicks(w http.ResponseWriter, src Source) {
	p, ok := src.(Picks)
	if !ok {
		http.Error(w, "status: no picks: they are not sampled here", http.StatusNotFound)
		return
	}
	// Empty lists instead of nil ones, as everywhere, and without changing the source's.
	picks := append([]Pick{}, p.Picks()...)
	for i := range picks {
		if picks[i].Candidates == nil {
			picks[i].Candidates = []Candidate{}
		}
	}
	writeJSON(w, picks)
}
