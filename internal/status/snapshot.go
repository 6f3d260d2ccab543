package status

import "time"

// Snapshot is what /status.json says. Scripts depend on the names; fields may be added, never renamed.
type Snapshot struct {
	Nodes    []Node    `json:"nodes"`
	Machines []Machine `json:"machines"`
	RTT      []RTT     `json:"rtt"`
	Parked   int       `json:"parked"` // requests waiting for a machine

	// What follows is optional; the page leaves out what is zero.

	Title    string    `json:"title,omitempty"`    // what the page is about, such as the command that runs
	Started  time.Time `json:"started,omitzero"`   // when the process started; a change tells the page to begin anew
	Requests uint64    `json:"requests,omitempty"` // requests answered since then
	InFlight int       `json:"in_flight"`          // requests in flight at the edges, parked ones included

	// AutostartOff says that requests do not wake machines.
	AutostartOff bool `json:"autostart_off,omitempty"`

	// Also names what else can be asked for: "history", "links", "picks" and "stop". [Handler] fills it in.
	Also []string `json:"also,omitempty"`
}

// Node is a process that runs the library, or plays the role of one.
type Node struct {
	ID     string `json:"id"`
	Region string `json:"region"`
	Role   string `json:"role"`            // "edge", "worker", or both with a plus sign
	Place  string `json:"place,omitempty"` // what people call the region, such as "Tokyo"
}

// Machine is a machine and how it does.
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

	// Fault says why the last start or run failed, what a start lacks that takes long, or how the
	// answers of a machine that runs fail; for people.
	Fault string `json:"fault,omitempty"`
}

// RTT is a measured round trip between two regions, or two nodes.
type RTT struct {
	From string  `json:"from"`
	To   string  `json:"to"`
	MS   float64 `json:"ms"`
	Loss float64 `json:"loss"` // 0 to 1

	// State is how much the figures are worth: fresh, stale or lost; empty means fresh.
	State string `json:"state,omitempty"`
}

// normal returns s with empty lists for nil ones: scripts need not know null.
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
