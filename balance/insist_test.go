package balance

import (
	"errors"
	"testing"
)

// A request that insists goes where only the estimate says that there is no room, and nowhere else.
func TestARequestThatInsistsAsksTheOwner(t *testing.T) {
	const hard = 3 + fewSlots
	full := Load{InFlight: hard, Limits: Limits{Hard: hard}, State: Started, Epoch: 1, Seq: 1}
	for name, tt := range map[string]struct {
		own  int // requests of this node
		does func(t *testing.T, r *Reservation)
		want bool
	}{
		"room":           {1, func(*testing.T, *Reservation) {}, true},
		"full of others": {1, func(_ *testing.T, r *Reservation) { over := full; over.InFlight += hard; r.Observe(over) }, true},
		"full of ours":   {hard, func(*testing.T, *Reservation) {}, false},
		"said full":      {1, func(_ *testing.T, r *Reservation) { r.Observe(full); r.Release(Bounced) }, false},
		"away": {1, func(_ *testing.T, r *Reservation) {
			l := full
			l.InFlight, l.State = 0, Stopped
			r.Observe(l)
			r.Release(Bounced)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := NewFleet(FleetConfig{Node: "edge", Region: "nrt"})
			if err != nil {
				t.Fatal(err)
			}
			m := Machine{
				ID: "m1", App: "web", Region: "nrt", Owner: "worker", State: Started, Epoch: 1,
				Limits: Limits{Hard: hard},
			}
			if err := f.Apply(PutApp{App: App{ID: "web", Limits: Limits{Hard: hard}}}, PutMachine{Machine: m, Version: Version{Incarnation: 1, Seq: 1}}); err != nil {
				t.Fatal(err)
			}
			b, err := New(f, Config{})
			if err != nil {
				t.Fatal(err)
			}
			var held []Reservation
			for range tt.own {
				r, err := b.Pick(Request{App: "web"})
				if err != nil {
					t.Fatal(err)
				}
				held = append(held, r)
			}
			tt.does(t, &held[0])
			plain, err := b.Pick(Request{App: "web"})
			if roomy := name == "room"; (err == nil) != roomy {
				t.Fatalf("without insisting: %v", err)
			} else if roomy {
				plain.Release(Canceled)
			}
			r, err := b.Pick(Request{App: "web", Insist: true})
			if (err == nil) != tt.want || err != nil && !errors.Is(err, ErrNoMachine) {
				t.Fatalf("insisting: %v, want a machine: %v", err, tt.want)
			}
			if err == nil {
				r.Release(Canceled)
			}
			if _, err := b.Pick(Request{App: "web", Insist: true, Tried: []MachineID{"m1"}}); err == nil {
				t.Error("it goes where it has been")
			}
		})
	}
}
