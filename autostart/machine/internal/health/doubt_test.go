package health

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A boot that hangs, step by step: people are told, it is doubted, it is overdue, and in the end it
// fails.
func TestDoubt(t *testing.T) {
	d := Doubt{Addr: "127.0.0.1:80", Began: t0, Patience: 7 * sec}
	d.Begin(t0)
	type said struct {
		At      time.Duration
		Finding Finding
	}
	var got []said
	seen := Seen{Known: true, Output: "waiting"}
	for now := t0; now.Sub(t0) < 20*sec; {
		now = d.Wake()
		age := now.Sub(t0)
		seen.Idle = max(0, age-4*sec)
		var l *Look
		if d.Due(now) {
			l = &Look{Found: "connection refused", Refused: true, Seen: seen, Known: Known{Hung: 9}}
		}
		f := d.Step(now, l)
		if f != (Finding{}) && f != (Finding{Doubtful: true}) {
			got = append(got, said{age, f})
		}
		if f.Failed != "" {
			break
		}
	}
	const lacks = "connection refused; it listens nowhere"
	want := []said{
		{5 * sec, Finding{Why: lacks + "; it last wrote: waiting"}},
		{7 * sec, Finding{Overdue: true}},
		{7500 * time.Millisecond, Finding{
			Why:      lacks + " and does nothing (set App.BootHint if its boots take longer); it last wrote: waiting",
			Doubtful: true, Doubted: true,
		}},
		{15 * sec, Finding{
			Failed: hangsText(d.Addr, 11*sec, "waiting"), Hung: 1,
		}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	// A look that could not be made is repeated soon, and yields no finding.
	d = Doubt{Began: t0, Patience: time.Hour}
	d.Begin(t0)
	if f := d.Step(d.Wake(), nil); f != (Finding{}) || d.Wake() != t0.Add(2*lookEvery) {
		t.Errorf("%+v, and the next look after %v", f, d.Wake().Sub(t0))
	}
	// Slow looks are rare.
	d.Step(d.Wake(), &Look{Took: 100 * time.Millisecond})
	if wait := d.Wake().Sub(t0) - 2*lookEvery; wait != 2*sec {
		t.Errorf("the next look %v after one of 100 ms, want 2 s", wait)
	}
}
