package waitroom

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// places returns the places of a tenant's queue from front to back, and checks all links of the
// room.
func places[T any](t interface{ Fatalf(string, ...any) }, r *List[T], name string) (ps []uint64) {
	n, tenants := 0, 0
	var before *Tenant[T]
	for q := r.front; q != nil; before, q = q, q.next {
		tenants++
		n += q.N
		if q.prev != before || q.in != r || q.N == 0 || q.name != "" && r.named[q.name] != q {
			t.Fatalf("broken links at tenant %q", q.name)
		}
		var last *Seat[T]
		seats := 0
		for s := q.first; s != nil; last, s = s, s.next {
			seats++
			if s.prev != last || s.In != q || last != nil && last.place > s.place {
				t.Fatalf("broken links at place %d", s.place)
			}
			if q.name == name {
				ps = append(ps, s.place)
			}
		}
		if q.Last != last || seats != q.N {
			t.Fatalf("tenant %q counts %d and has %d", q.name, q.N, seats)
		}
	}
	if r.back != before || n != r.N || tenants != r.Tenants || len(r.named) > tenants {
		t.Fatalf("the room counts %d of %d tenants, and has %d of %d", r.N, r.Tenants, n, tenants)
	}
	met := 0
	for s := r.After(nil); s != nil; s = r.After(s) {
		met++
	}
	if met != n {
		t.Fatalf("%d of %d are met on the way through", met, n)
	}
	return ps
}

func TestList(t *testing.T) {
	var r List[string]
	seats := map[string]*Seat[string]{}
	join := func(name string, place uint64) {
		s := &Seat[string]{Value: name}
		seats[name] = s
		r.Join(s, "", place, false)
	}
	order := func() (names []string) {
		places(t, &r, "")
		for s := r.After(nil); s != nil; s = r.After(s) {
			names = append(names, s.Value)
		}
		return names
	}
	join("a", 1)
	join("b", 2)
	join("c", 3)
	if r.Leave(seats["a"]); !slices.Equal(order(), []string{"b", "c"}) {
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
	if !r.Leave(seats["d"]) || r.Leave(seats["d"]) || !r.Leave(seats["c"]) {
		t.Error("leave says whether the seat was taken")
	}
	if !slices.Equal(order(), []string{"a again", "b", "twin of b"}) {
		t.Errorf("after c and d: %v", order())
	}
	var other List[string]
	if other.Leave(seats["b"]) {
		t.Error("a seat of another room")
	}
}

// serve takes out whose turn it is.
func (r *List[T]) serve() *Seat[T] {
	r.Begin()
	s := r.Turn()
	if s != nil {
		r.Served(s)
	}
	return s
}

// The order in which those who wait are served.
func TestTenantsTakeTurns(t *testing.T) {
	for _, tc := range []struct {
		name string
		// A letter is a request of that tenant that comes, "." serves one, "<" lets the last who
		// was served return, "-" takes the tenant's first out whose letter follows.
		story string
		want  string // who are served in the end
	}{
		{"one tenant: the order of coming", "aaa", "aaa"},
		{"who comes late comes after the others' first", "aaaab", "abaaa"},
		{"and its second after their second", "aaaabb", "ababaa"},
		{"a round that has been served is over", "aaaaaa...bb", "ababa"},
		{"three", "aaaabbbbcc", "abcabcabab"},
		{"who has been away has saved nothing up", "ab..aaaa..bbb", "ababb"},
		{"who returns comes first", "aaabbb.<", "ababab"},
		{"and again", "aaabbb.<.<.", "babab"},
		{"who leaves costs its tenant no turn", "aaaabbb-bb-bb", "abababa"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var r List[string]
			var last *Seat[string]
			place := uint64(0)
			for i := 0; i < len(tc.story); i++ {
				switch c := tc.story[i]; c {
				case '.':
					last = r.serve()
				case '<':
					r.Join(last, last.Value, last.place, true)
				case '-':
					i++
					r.Leave(r.named[tc.story[i:i+1]].first)
				default:
					place++
					r.Join(&Seat[string]{Value: string(c)}, string(c), place, false)
				}
				places(t, &r, "")
			}
			var served []string
			for s := r.serve(); s != nil; s = r.serve() {
				served = append(served, s.Value)
			}
			if got := strings.Join(served, ""); got != tc.want {
				t.Errorf("%s: served %s, want %s", tc.story, got, tc.want)
			}
		})
	}
}

// The room against an obvious one: a slice for each tenant, kept sorted. Of two tenants that wait
// all the time neither gets more than one turn more than the other, but for those that return.
func TestListModel(t *testing.T) {
	names := []string{"", "a", "b"}
	rapid.Check(t, func(t *rapid.T) {
		type one struct {
			s     *Seat[int]
			name  string
			place uint64
		}
		var r List[int]
		model := map[string][]one{}
		var gone []one
		var last uint64
		more := map[[2]string]int{} // turns that the first got more than the second since both wait
		settle := func() {
			for pair := range more {
				if len(model[pair[0]]) == 0 || len(model[pair[1]]) == 0 {
					delete(more, pair)
				}
			}
		}
		name := rapid.SampledFrom(names)
		add := func(o one, returns bool) {
			of := model[o.name]
			i, _ := slices.BinarySearchFunc(of, o.place+1, func(m one, p uint64) int {
				if m.place < p {
					return -1
				}
				return 1
			})
			model[o.name] = slices.Insert(of, i, o)
			r.Join(o.s, o.name, o.place, returns)
		}
		some := func(t *rapid.T) (string, int) {
			who := name.Draw(t, "tenant")
			if len(model[who]) == 0 {
				t.Skip()
			}
			return who, rapid.IntRange(0, len(model[who])-1).Draw(t, "who")
		}
		t.Repeat(map[string]func(*rapid.T){
			"arrive": func(t *rapid.T) {
				last++
				s := &Seat[int]{Value: int(last)}
				add(one{s: s, place: last, name: name.Draw(t, "tenant")}, false)
			},
			// it has the place of the last who was parked before
			"arrive from the warm path": func(t *rapid.T) {
				if last == 0 {
					t.Skip()
				}
				place := rapid.Uint64Range(max(4, last)-3, last).Draw(t, "place")
				add(one{s: &Seat[int]{}, place: place, name: name.Draw(t, "tenant")}, true)
				clear(more)
			},
			"return": func(t *rapid.T) {
				if len(gone) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(gone)-1).Draw(t, "who")
				o := gone[i]
				gone = slices.Delete(gone, i, i+1)
				add(o, true)
				clear(more)
			},
			"leave": func(t *rapid.T) {
				who, i := some(t)
				o := model[who][i]
				if !r.Leave(o.s) || r.Leave(o.s) {
					t.Fatal("a wait ends exactly once")
				}
				model[who] = slices.Delete(model[who], i, i+1)
				gone = append(gone, o)
				settle()
			},
			"serve, after some have been passed over": func(t *rapid.T) {
				if r.N == 0 {
					t.Skip()
				}
				r.Begin()
				passed := map[*Seat[int]]bool{}
				for range rapid.IntRange(0, 3).Draw(t, "passed over") {
					if s := r.Turn(); s != nil && len(passed) < r.N-1 {
						passed[s] = true
						r.Pass(s)
					}
				}
				s := r.Turn()
				var o one
				for who, of := range model {
					for i, m := range of {
						if m.s == s {
							o = m
							model[who] = slices.Delete(of, i, i+1)
							break
						}
						mine := slices.ContainsFunc(of, func(m one) bool { return m.s == s })
						if mine && !passed[m.s] {
							t.Fatalf("%q: served before who came first", who)
						}
					}
				}
				if o.s == nil || !r.Served(s) || r.Served(s) {
					t.Fatal("nobody's turn, or that of somebody who does not wait")
				}
				gone = append(gone, o)
				for _, other := range names {
					if other == o.name || len(model[other]) == 0 {
						continue
					}
					more[[2]string{o.name, other}]++
					more[[2]string{other, o.name}]--
					if d := more[[2]string{o.name, other}]; len(passed) == 0 && d > 1 {
						t.Fatalf("%q got %d turns more than %q", o.name, d, other)
					} else if len(passed) > 0 {
						clear(more)
					}
				}
				settle()
			},
			"": func(t *rapid.T) {
				for _, who := range names {
					var want []uint64
					for _, o := range model[who] {
						want = append(want, o.place)
					}
					if got := places(t, &r, who); !slices.Equal(got, want) {
						t.Fatalf("places of %q: %v, want %v", who, got, want)
					}
					if r.Waiting(who) != len(want) {
						t.Fatalf("%d of %q wait, want %d", r.Waiting(who), who, len(want))
					}
				}
				for _, of := range model {
					if most := r.Longest(); len(of) > 0 && len(of) > most.N {
						t.Fatalf("%q has not most", most.name)
					}
				}
			},
		})
	})
}

// What leaves in any order costs the same, however many wait.
func BenchmarkRoom(b *testing.B) {
	const n = 100_000
	for _, tenants := range []int{1, 1000} {
		b.Run("tenants="+strconv.Itoa(tenants), func(b *testing.B) {
			names := make([]string, tenants)
			for i := range names[1:] {
				names[i+1] = strconv.Itoa(i)
			}
			seats := make([]Seat[[256]byte], n)
			r := new(List[[256]byte])
			b.ReportAllocs()
			k := 0
			for b.Loop() {
				if k == 0 {
					r = new(List[[256]byte])
					for i := range seats {
						seats[i] = Seat[[256]byte]{}
						r.Join(&seats[i], names[i%tenants], uint64(i+1), false)
					}
				}
				r.Leave(&seats[k*7919%n]) // 7919 is prime: each once, all over the place
				k = (k + 1) % n
			}
		})
	}
}
