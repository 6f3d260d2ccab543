package grants

import (
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
)

type distances map[string]time.Duration

func (d distances) RTT(region string) (time.Duration, bool) { rtt, ok := d[region]; return rtt, ok }

func newFleet(t testing.TB, node balance.NodeID, region string) *balance.Fleet {
	t.Helper()
	f, err := balance.NewFleet(balance.FleetConfig{Node: node, Region: region})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func apply(t testing.TB, f *balance.Fleet, us ...balance.Update) {
	t.Helper()
	if err := f.Apply(us...); err != nil {
		t.Fatal(err)
	}
}

func start(t testing.TB, g *balance.Gate) {
	t.Helper()
	token, _ := g.Start(g.Load().Epoch)
	if !g.Ready(token) {
		t.Fatal("not started")
	}
}
