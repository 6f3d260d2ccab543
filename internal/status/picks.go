package status

import (
	"net/http"
	"time"
)

// Picks is what a [Source] also implements when it samples where requests go, and why. The method is called concurrently,
// and once a second while somebody looks.
type Picks interface {
	// Picks returns the latest samples, newest first: some dozens, not thousands. The caller does not change them.
	Picks() []Pick
}

// Pick is where a request went, and why there.
type Pick struct {
	Time       time.Time   `json:"time"`
	Node       string      `json:"node"` // that picked
	App        string      `json:"app"`
	Machine    string      `json:"machine"` // empty when there was none
	Region     string      `json:"region"`
	Reason     string      `json:"reason"`     // in a sentence
	Candidates []Candidate `json:"candidates"` // that were looked at, best first
}

// Candidate is a machine that a pick looked at, as the node saw it then.
type Candidate struct {
	Machine string   `json:"machine"`
	Region  string   `json:"region"`
	Load    float64  `json:"load"`   // requests in flight, an estimate
	Soft    int      `json:"soft"`   // 0 means none
	Hard    int      `json:"hard"`   // 0 means none
	RTT     *float64 `json:"rtt_ms"` // to its region; null means not measured
	Note    string   `json:"note"`   // what else spoke for or against it
}

func listPicks(w http.ResponseWriter, src Source) {
	p, ok := src.(Picks)
	if !ok {
		http.Error(w, "status: no picks: they are not sampled here", http.StatusNotFound)
		return
	}
	// Empty lists for nil ones, as everywhere, and without changing what is the source's.
	picks := append([]Pick{}, p.Picks()...)
	for i := range picks {
		if picks[i].Candidates == nil {
			picks[i].Candidates = []Candidate{}
		}
	}
	writeJSON(w, picks)
}
