package grants

import (
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// No hook is called with a lock held: each may use what it is hooked into. If a lock is held, this
// test hangs instead of failing.
func TestHooksMayCallBack(t *testing.T) {
	f := newFleet(t, "n", "nrt")
	apply(t, f, balance.PutApp{App: balance.App{ID: "web"}})
	gate, err := f.Host(
		balance.Machine{ID: "m1", App: "web", Region: "nrt", Limits: balance.Limits{Hard: 1}},
	)
	if err != nil {
		t.Fatal(err)
	}
	var g *Granter
	called := map[string]bool{}
	hook := func(name string) {
		if called[name] || g == nil {
			return
		}
		called[name] = true
		g.Ask("n", "web", 0)
		g.Back("n", balance.Grant{App: "web", Machine: "m1", Token: 1})
		g.Tick()
		f.Apply(balance.PutApp{App: balance.App{ID: "another"}})
		gate.Load()
	}
	made, err := New(f, Config{
		Now:  func() time.Time { hook("Now"); return time.Unix(1000, 0) },
		Give: func(balance.NodeID, balance.Grant) { hook("Give") },
	})
	if err != nil {
		t.Fatal(err)
	}
	g = made
	start(t, gate)
	g.Ask("n", "web", 1)
	for _, name := range []string{"Now", "Give"} {
		if !called[name] {
			t.Errorf("Config.%s was not called", name)
		}
	}
}
