package balance

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestForcedMeansForcedOrError(t *testing.T) {
	for name, s := range map[string]Strategy{"closest": nil, "leastload": LeastLoad{}, "pack": Pack{}, "draws": Closest{Choices: 2}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, s, Limits{Soft: 2, Hard: 2})
			for i := range 40 {
				w.put(MachineID(fmt.Sprintf("m%02d", i)), []string{"nrt", "hkg"}[i%2], func(m *Machine) { m.Revision = fmt.Sprint("v", i%4) })
			}
			pick := func(want Want) string {
				r, err := w.b.Pick(Request{App: "web", Want: &want})
				var none *NoMachineError
				if errors.As(err, &none) {
					return fmt.Sprintf("%d unwanted, %d full", none.Unwanted, none.Full)
				}
				w.held["all"] = append(w.held["all"], r)
				return string(r.Machine().ID) + " " + r.Machine().Region + " " + r.Machine().Revision
			}
			only := Target{Machines: []MachineID{"m07"}}
			for i, c := range []struct {
				want Want
				ok   func(string) bool
			}{
				{Want{Force: only}, func(s string) bool { return s == "m07 hkg v3" }},
				{Want{Prefer: only}, func(s string) bool { return s == "m07 hkg v3" }},
				{Want{Force: only}, func(s string) bool { return s == "39 unwanted, 1 full" }},
				{Want{Prefer: only}, func(s string) bool { return strings.Contains(s, " nrt ") || name == "leastload" && s != "" }},
				{Want{Force: Target{Regions: []string{"hkg"}}}, func(s string) bool { return strings.Contains(s, " hkg ") }},
				{Want{Force: Target{Regions: []string{"xyz"}}}, func(s string) bool { return s == "40 unwanted, 0 full" }},
				{Want{Revision: "v2"}, func(s string) bool { return strings.HasSuffix(s, " v2") }},
				{Want{Revision: "v2", Prefer: Target{Regions: []string{"hkg"}}}, func(s string) bool { return strings.HasSuffix(s, "nrt v2") }},
				{Want{Revision: "v2", Force: Target{Regions: []string{"hkg"}}}, func(s string) bool { return s == "40 unwanted, 0 full" }},
			} {
				if got := pick(c.want); !c.ok(got) {
					t.Errorf("row %d: %+v went to %q", i, c.want, got)
				}
			}
		})
	}
}

func TestHeaders(t *testing.T) {
	h := Headers{ForceMachine: "X-Machine", PreferRegion: "X-Near", Key: "X-Session", Revision: "X-Rev", Aliases: map[string][]string{"eu": {"ams", "fra"}}}
	in := http.Header{}
	in.Set("X-Machine", "m1, m2,")
	in.Set("X-Near", "eu,lhr")
	in.Set("X-Session", " user7 ")
	in.Set("X-Other", "m9")
	r := Request{App: "web", Key: "old"}
	if err := h.Read(in, &r); err != nil {
		t.Fatal(err)
	}
	want := Request{App: "web", Key: "user7", Want: &Want{Force: Target{Machines: []MachineID{"m1", "m2"}}, Prefer: Target{Regions: []string{"ams", "fra", "lhr"}}}}
	if d := cmp.Diff(want, r, cmp.AllowUnexported(Request{})); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	h.Remove(in)
	if len(in) != 1 {
		t.Errorf("left after Remove: %v", in)
	}
	plain := Request{App: "web"}
	if err := h.Read(in, &plain); err != nil || plain.Want != nil {
		t.Errorf("nothing said: %v %+v", err, plain)
	}
	if err := (Headers{}).Read(http.Header{"": {"m1"}, "X-Machine": {"m1"}}, &plain); err != nil || plain.Want != nil || plain.Key != "" {
		t.Errorf("headers that are off were read: %v %+v", err, plain)
	}
	in.Set("X-Machine", strings.Repeat("m,", 17))
	if err := h.Read(in, &plain); err == nil || !strings.Contains(err.Error(), "X-Machine") || plain.Want != nil {
		t.Errorf("17 machines: %v", err)
	}
	in.Set("X-Machine", strings.Repeat("m", 2000))
	if err := h.Read(in, &plain); err == nil {
		t.Error("a header of 2000 bytes was read")
	}
}
