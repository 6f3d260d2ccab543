package policy

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/boots"
	"github.com/ebbkit/ebb/balance"
	"github.com/google/go-cmp/cmp"
)

func TestHistoryRoundTrip(t *testing.T) {
	s := newStory(t, balance.App{BootHint: 7 * sec}, "nrt: a b c d")
	s.plan(0, 0, 0)
	for i := range 40 {
		s.see("a starting")
		s.plan(time.Duration(100*i)*sec, 0, 1)
		s.see("a started")
		s.plan(time.Duration(100*i)*sec+time.Duration(i)*sec, 0, 1)
		s.see([]string{"a stopped", "a suspended"}[i%2])
		s.plan(time.Duration(100*i+90)*sec, 0, 0)
	}
	h := s.p.History()
	text, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	var back History
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	p := new(Planner)
	p.Restore(back)
	if diff := cmp.Diff(h.learned, p.History().learned, cmp.Comparer(func(a, b boots.Boots) bool {
		return a.Hint == b.Hint && slices.Equal(taken(a), taken(b))
	})); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	again, _ := json.Marshal(p.History())
	if string(again) != string(text) {
		t.Errorf("%s\nafter a round trip: %s", text, again)
	}
	want, got := s.p.boots.All[boots.Cold], p.boots.All[boots.Cold]
	got.Hint = 7 * sec
	if want.Expected() != got.Expected() || want.Suspect() != got.Suspect() {
		t.Errorf("%v and %v before, %v and %v after", want.Expected(), want.Suspect(), got.Expected(), got.Suspect())
	}
	// What comes from elsewhere may be anything.
	var b boots.Boots
	for _, text := range []string{`{"lastNs":[-5,7]}`, `{"hintNs":-1,"lastNs":[7]}`} {
		if err := json.Unmarshal([]byte(text), &b); err != nil || b.Hint != 0 || b.Longest() != 7 {
			t.Errorf("%s: %+v, %v", text, b, err)
		}
	}
	if json.Unmarshal([]byte(`{"lastNs":"x"}`), &b) == nil {
		t.Error("nonsense is taken")
	}
}
