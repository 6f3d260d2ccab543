package waitroom

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Whoever comes and leaves in whatever way, the room knows what those who wait hold, how many of
// them insist, and who has to make room for whom.
func TestRoomModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var r Room[int]
		var in []*Seat[int]
		tenants := map[*Seat[int]]string{}
		now, place := t0, uint64(0)
		out := func(take func(*Seat[int]) bool) {
			if len(in) == 0 {
				return
			}
			i := rapid.IntRange(0, len(in)-1).Draw(t, "who")
			s := in[i]
			if !take(s) || take(s) {
				t.Fatal("of two who end a wait, one gets true")
			}
			in = append(in[:i:i], in[i+1:]...)
		}
		t.Repeat(map[string]func(*rapid.T){
			"join": func(t *rapid.T) {
				place++
				s := &Seat[int]{
					Bytes: rapid.IntRange(0, 9).Draw(t, "bytes"), Insists: rapid.Bool().Draw(t, "insists"),
				}
				tenants[s] = fmt.Sprint(rapid.IntRange(0, 3).Draw(t, "tenant"))
				r.Join(s, tenants[s], place, false)
				in = append(in, s)
			},
			"leave":   func(*rapid.T) { out(func(s *Seat[int]) bool { return r.Leave(now, s) }) },
			"serve":   func(*rapid.T) { out(func(s *Seat[int]) bool { return r.Serve(now, s) }) },
			"advance": func(t *rapid.T) { now = now.Add(time.Duration(rapid.IntRange(-1, 5).Draw(t, "s")) * sec) },
			"": func(t *rapid.T) {
				bytes, insist, of := 0, 0, map[string]int{}
				for _, s := range in {
					bytes += s.Bytes
					if s.Insists {
						insist++
					}
					of[tenants[s]]++
				}
				if r.N != len(in) || r.Bytes != bytes || r.Insisting != insist {
					t.Fatalf(
						"%d wait, hold %d, %d insist; want %d, %d, %d", r.N, r.Bytes, r.Insisting, len(in), bytes,
						insist,
					)
				}
				if r.Full(now, -1, Limits{Usual: len(in) + 1}) || !r.Full(now, -1, Limits{Usual: len(in)}) {
					t.Fatal("it is full at its limit, and not before")
				}
				if r.Heavy(1, Limits{}) || !r.Heavy(1, Limits{Bytes: max(bytes, 1)}) && bytes > 0 {
					t.Fatal("it is heavy above its limit, and without one never")
				}
				for _, name := range []string{"0", "3", "new"} {
					s := r.Displaces(name)
					if s != nil && of[tenants[s]] <= of[name]+1 {
						t.Fatalf("%s has %d and displaces %s of %d", name, of[name], tenants[s], of[tenants[s]])
					}
				}
			},
		})
	})
}

// A room that is served at a known rate has room for as many as will be served in time.
func TestRoomFollowsItsRate(t *testing.T) {
	var r Room[int]
	now := t0
	limits := Limits{Most: 1000, Usual: 5}
	for i := range 100 {
		r.Join(&Seat[int]{}, "", uint64(i), false)
	}
	if !r.Full(now, 10*sec, limits) || r.Drain(now) != 0 {
		t.Error("nothing is known before any is served")
	}
	for range 60 {
		now = now.Add(sec / 3)
		r.Serve(now, r.After(nil))
	}
	if r.Full(now, 60*sec, limits) || !r.Full(now, sec, limits) {
		t.Error("40 wait at 3 a second: want room for those who wait a minute, and none for a second")
	}
	if d := r.Drain(now); d < 11*sec || d > 16*sec {
		t.Errorf("40 take %v, want 13 s", d)
	}
}
