package process

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Whatever is written, and in whatever pieces, the end is kept and all of it is passed on in lines.
func TestLinesProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		piece := rapid.OneOf(
			rapid.Just("\n"), rapid.StringN(0, 20, 40),
			rapid.Map(rapid.IntRange(0, 3*lineMax), func(n int) string { return strings.Repeat("x", n) }),
		)
		var all strings.Builder
		var passed bytes.Buffer
		o := &output{lines: &lineWriter{w: &passed, prefix: "m | "}}
		for _, p := range rapid.SliceOfN(piece, 0, 30).Draw(t, "pieces") {
			all.WriteString(p)
			if n, err := o.Write([]byte(p)); n != len(p) || err != nil {
				t.Fatalf("%d, %v", n, err)
			}
		}
		o.end()
		text := all.String()
		end := text[max(0, len(text)-outputKept):]
		if len(o.kept) > 2*outputKept || !strings.HasSuffix(text, string(o.kept)) || !strings.HasSuffix(string(o.kept), end) {
			t.Fatalf("%d bytes are kept of %d", len(o.kept), len(text))
		}
		for line := range strings.Lines(passed.String()) {
			if !strings.HasPrefix(line, "m | ") || !strings.HasSuffix(line, "\n") || len(line) > len("m | ")+lineMax+1 {
				t.Fatalf("line of %d bytes: %.20q", len(line), line)
			}
		}
		got := strings.ReplaceAll(strings.ReplaceAll("\n"+passed.String(), "\nm | ", "\n"), "\n", "")
		if want := strings.ReplaceAll(text, "\n", ""); got != want {
			t.Fatalf("passed on %d bytes of %d", len(got), len(want))
		}
	})
}

func TestActivity(t *testing.T) {
	t0 := time.Unix(1_800_000_000, 0)
	for _, tc := range []struct {
		name    string
		cpu     uint64
		busy    bool
		printed int64
		idle    time.Duration // a second after it has used 100 ticks and printed 10 bytes
	}{
		{"nothing", 100, false, 10, time.Second},
		{"a tick may just be full", 101, false, 10, time.Second},
		{"it works", 102, false, 10, 0},
		{"it wants to, or reads a file", 100, true, 10, 0},
		{"it prints", 100, false, 11, 0},
		{"one of its processes has ended unseen", 90, false, 10, 0},
	} {
		var a activity
		if idle := a.look(t0, 100, false, 10); idle != 0 {
			t.Errorf("%s: idle for %v at the first look", tc.name, idle)
		}
		if idle := a.look(t0.Add(time.Second), tc.cpu, tc.busy, tc.printed); idle != tc.idle {
			t.Errorf("%s: idle for %v, want %v", tc.name, idle, tc.idle)
		}
		if idle, want := a.look(t0.Add(3*time.Second), tc.cpu, false, tc.printed), tc.idle+2*time.Second; idle != want {
			t.Errorf("%s: idle for %v after two more seconds, want %v", tc.name, idle, want)
		}
		if idle := a.look(t0.Add(-time.Hour), tc.cpu, false, tc.printed); idle != 0 {
			t.Errorf("%s: idle for %v when the clock is set back", tc.name, idle)
		}
	}
}
