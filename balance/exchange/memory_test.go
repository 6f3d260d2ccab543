package exchange_test

import (
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/exchange"
	"github.com/ebbkit/ebb/balance/exchange/exchangetest"
)

func TestMemory(t *testing.T) {
	for name, c := range map[string]exchange.MemoryConfig{
		"at once": {},
		"late": {
			Delay:  func(from, to balance.NodeID) time.Duration { return 20 * time.Millisecond },
			Jitter: 20 * time.Millisecond,
		},
	} {
		t.Run(name, func(t *testing.T) {
			exchangetest.Test(t, exchangetest.Engine{Bubble: true, New: func(t *testing.T) exchangetest.Net {
				m := exchange.NewMemory(c)
				conns := map[balance.NodeID]*exchange.Conn{}
				return exchangetest.Net{
					Connect: func(id balance.NodeID) exchange.Exchange { return m.Connect(id) },
					Store: func(id balance.NodeID) exchange.Store {
						if conns[id] == nil {
							conns[id] = m.Connect(id)
						}
						return conns[id]
					},
					Interrupt: func(d time.Duration) { m.Cut(); time.Sleep(d); m.Join() },
				}
			}})
		})
	}
}
