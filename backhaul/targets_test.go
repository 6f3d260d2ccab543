package backhaul

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ebbkit/ebb/balance"
)

func TestTargetHeaders(t *testing.T) {
	h := TargetHeaders{
		ForceMachine: "X-Machine", PreferRegion: "X-Near", Key: "X-Session", Revision: "X-Rev",
		Aliases: map[string][]string{"eu": {"ams", "fra"}},
	}
	in := http.Header{}
	in.Set("X-Machine", "m1, m2,")
	in.Set("X-Near", "eu,lhr")
	in.Set("X-Session", " user7 ")
	in.Set("X-Other", "m9")
	r := balance.Request{App: "web", Key: "old"}
	if err := h.Read(in, &r); err != nil {
		t.Fatal(err)
	}
	want := balance.Request{App: "web", Key: "user7",
		Force:  &balance.Target{Machines: []balance.MachineID{"m1", "m2"}},
		Prefer: &balance.Target{Regions: []string{"ams", "fra", "lhr"}},
	}
	if d := cmp.Diff(want, r, cmpopts.IgnoreUnexported(balance.Request{})); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	h.Remove(in)
	if len(in) != 1 {
		t.Errorf("left after Remove: %v", in)
	}
	plain := balance.Request{App: "web"}
	if err := h.Read(in, &plain); err != nil || plain.Force != nil {
		t.Errorf("nothing said: %v %+v", err, plain)
	}
	if err := (TargetHeaders{}).Read(http.Header{"": {"m1"}, "X-Machine": {"m1"}}, &plain); err != nil ||
		plain.Force != nil ||
		plain.Key != "" {
		t.Errorf("headers that are off were read: %v %+v", err, plain)
	}
	in.Set("X-Machine", strings.Repeat("m,", 17))
	if err := h.Read(in, &plain); err == nil || !strings.Contains(err.Error(), "X-Machine") ||
		plain.Force != nil {
		t.Errorf("17 machines: %v", err)
	}
	in.Set("X-Machine", strings.Repeat("m", 2000))
	if err := h.Read(in, &plain); err == nil {
		t.Error("a header of 2000 bytes was read")
	}
}
