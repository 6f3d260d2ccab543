package autostart

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// places returns the places of a room from front to back, and checks its links both ways.
func places[T any](t interface{ Fatalf(string, ...any) }, r *room[T]) (ps []uint64) {
	var last *seat[T]
	for s := r.first; s != nil; last, s = s, s.next {
		if s.prev != last || s.in != r {
			t.Fatalf("broken links at place %d", s.place)
		}
		ps = append(ps, s.place)
	}
	if r.last != last || len(ps) != r.n {
		t.Fatalf("the room counts %d and has %d", r.n, len(ps))
	}
	return ps
}

func TestRoom(t *testing.T) {
	var r room[string]
	seats := map[string]*seat[string]{}
	join := func(name string, place uint64) {
		s := &seat[string]{Value: name}
		seats[name] = s
		r.join(s, place)
	}
	order := func() (names []string) {
		places(t, &r)
		for s := r.first; s != nil; s = s.next {
			names = append(names, s.Value)
		}
		return names
	}
	join("a", 1)
	join("b", 2)
	join("c", 3)
	if r.leave(seats["a"]); !slices.Equal(order(), []string{"b", "c"}) {
		t.Errorf("after a slot for a: %v", order())
	}
	join("d", 4)
	join("a again", 1) // its machine refused it
	if !slices.Equal(order(), []string{"a again", "b", "c", "d"}) {
		t.Errorf("a returns to its old place: %v", order())
	}
	join("twin of b", 2)
	if !slices.Equal(order(), []string{"a again", "b", "twin of b", "c", "d"}) {
		t.Errorf("equal places are in order of coming: %v", order())
	}
	if !r.leave(seats["d"]) || r.leave(seats["d"]) || !r.leave(seats["c"]) {
		t.Error("leave says whether the seat was taken")
	}
	if !slices.Equal(order(), []string{"a again", "b", "twin of b"}) {
		t.Errorf("after c and d: %v", order())
	}
	var other room[string]
	if other.leave(seats["b"]) {
		t.Error("a seat of another room")
	}
}

// The room against an obvious one: a slice kept sorted.
func TestRoomModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type one struct {
			s     *seat[int]
			place uint64
			came  int
		}
		var r room[int]
		var model, gone []one
		var last uint64
		came := 0
		add := func(o one) {
			came++
			o.came = came
			i, _ := slices.BinarySearchFunc(model, o.place+1, func(m one, p uint64) int {
				if m.place < p {
					return -1
				}
				return 1
			})
			model = slices.Insert(model, i, o)
			r.join(o.s, o.place)
		}
		t.Repeat(map[string]func(*rapid.T){
			"arrive": func(t *rapid.T) {
				last++
				add(one{s: &seat[int]{Value: int(last)}, place: last})
			},
			"arrive from the warm path": func(t *rapid.T) { // it has the place of the last who was parked before
				if last == 0 {
					t.Skip()
				}
				add(one{s: &seat[int]{}, place: rapid.Uint64Range(max(4, last)-3, last).Draw(t, "place")})
			},
			"return": func(t *rapid.T) {
				if len(gone) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(gone)-1).Draw(t, "who")
				o := gone[i]
				gone = slices.Delete(gone, i, i+1)
				add(o)
			},
			"leave": func(t *rapid.T) {
				if len(model) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(model)-1).Draw(t, "who")
				o := model[i]
				if !r.leave(o.s) || r.leave(o.s) {
					t.Fatal("a wait ends exactly once")
				}
				model = slices.Delete(model, i, i+1)
				gone = append(gone, o)
			},
			"": func(t *rapid.T) {
				var want []uint64
				for _, o := range model {
					want = append(want, o.place)
				}
				if got := places(t, &r); !slices.Equal(got, want) {
					t.Fatalf("places %v, want %v", got, want)
				}
				for s, i := r.first, 0; s != nil; s, i = s.next, i+1 {
					if s != model[i].s {
						t.Fatalf("at %d somebody else than the model's", i)
					}
				}
			},
		})
	})
}

// What leaves in any order costs the same, however many wait.
func BenchmarkRoom(b *testing.B) {
	const n = 100_000
	seats := make([]seat[waiting], n)
	var r room[waiting]
	b.ReportAllocs()
	k := 0
	for b.Loop() {
		if k == 0 {
			r = room[waiting]{}
			for i := range seats {
				seats[i] = seat[waiting]{}
				r.join(&seats[i], uint64(i+1))
			}
		}
		r.leave(&seats[k*7919%n]) // 7919 is prime: each once, all over the place
		k = (k + 1) % n
	}
}
