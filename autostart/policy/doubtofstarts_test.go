package policy

import (
	"strings"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// Nobody is told to go while anything in flight may still serve.
func TestDoubtOfStarts(t *testing.T) {
	type look struct {
		at    time.Duration
		see   string
		doubt string // "" while there is hope
	}
	for _, tc := range []struct {
		name     string
		machines string
		looks    []look
	}{
		{"the only one is doubtful", "nrt: a", []look{
			{0, "", ""}, {0, "a starting", ""}, {3 * sec, "a doubtful", "a: hangs"}, {9 * sec, "", "a: hangs"}, {10 * sec, "a starts well", ""},
		}},
		{"another one is started, and then it is doubtful as well", "nrt: a b", []look{
			{0, "", ""}, {0, "a starting", ""}, {3 * sec, "a doubtful", ""}, {3 * sec, "b starting", ""}, {5 * sec, "b doubtful", "a: hangs"},
		}},
		{"one that may still serve", "nrt: a b c", []look{
			{0, "", ""}, {0, "a starting, b starting", ""}, {3 * sec, "a doubtful", ""}, {60 * sec, "", ""},
		}},
		{"the third only repeats two that have failed", "nrt: a b, hkg: c", []look{
			{0, "", ""}, {0, "a starting", ""}, {3 * sec, "a failed", ""}, {3 * sec, "b starting", ""}, {4 * sec, "b failed", "b: broken"},
			{4 * sec, "c starting", "b: broken"}, {10 * sec, "", "b: broken"}, {12 * sec, "", ""},
		}},
		{"those that began before the second failed may be better", "nrt: a b c d", []look{
			{0, "", ""}, {0, "a starting, b starting, c starting", ""}, {sec, "a failed", ""}, {2 * sec, "b failed", ""}, {3 * sec, "d starting", ""},
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newStory(t, balance.App{}, tc.machines)
			for _, l := range tc.looks {
				for part := range strings.SplitSeq(l.see, ", ") {
					switch name, what, _ := strings.Cut(part, " "); what {
					case "doubtful":
						m := new(*s.row(name))
						m.Doubtful, m.Health, m.Fault = true, balance.HealthFailing, "hangs"
						s.replace(m)
					case "starts well":
						m := new(*s.row(name))
						m.Doubtful, m.Health, m.Fault = false, balance.HealthUnknown, ""
						s.replace(m)
					default:
						s.see(part)
					}
				}
				s.plan(l.at, 0, 1)
				for _, m := range s.last.Start {
					s.p.answered(t0.Add(l.at), m, balance.StartAccepted, nil)
				}
				got := strings.TrimPrefix(s.last.Doubt, "machine ")
				for id, name := range s.names {
					got = strings.ReplaceAll(got, string(id)+":", name+":")
				}
				if got != l.doubt {
					t.Errorf("at %v, %q: doubt %q, want %q", l.at, l.see, got, l.doubt)
				}
			}
		})
	}
}
