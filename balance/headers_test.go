package balance

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

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
