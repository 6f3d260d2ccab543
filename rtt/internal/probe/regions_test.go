package probe

import (
	"fmt"
	"testing"
	"time"

	"github.com/ebbkit/ebb/rtt/internal/estimate"
)

func TestNear(t *testing.T) {
	var rows []Row
	for i := range 100 { // 10 regions of 10, nearest first
		d := time.Duration(i+1) * 10 * ms
		rows = append(rows, Row{
			Node: &Node{ID: fmt.Sprintf("n%02d", i), Region: fmt.Sprint("r", i/10)},
			Stat: estimate.Stat{Base: d, P90: d, Samples: 10, State: estimate.StateFresh},
		})
	}
	var r Ranking
	near := Near(r.Update(epoch, rows))
	if len(near) != 32+6 || !near["n00"] || !near["n31"] || near["n32"] || !near["n40"] ||
		!near["n90"] {
		t.Errorf("%d near ones: %v", len(near), near)
	}
}
