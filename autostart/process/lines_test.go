package process

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestLastLine(t *testing.T) {
	long := strings.Repeat("ab", wordsMax)
	for in, want := range map[string]string{
		"":                            "",
		"\n \n\t\n":                   "",
		"one":                         "one",
		"one\ntwo\n":                  "two",
		"one\r\n\r\n   \n":            "one",
		"  File \"x\"\nKeyError: 'a'": "KeyError: 'a'",
		"\x1b[1mbold\x1b[0m\x07":      "[1mbold[0m",
		"grüße\xff\n\x00\n":           "grüße",
		long:                          long[:wordsMax] + "...",
		"x" + long + "\n":             "x" + long[:wordsMax-1] + "...",
	} {
		if got := lastLine([]byte(in)); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// Whatever is written in whatever pieces: the end is kept, and all is passed on in lines.
func TestLinesProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		piece := rapid.OneOf(
			rapid.Just("\n"), rapid.StringN(0, 20, 40),
			rapid.Map(rapid.IntRange(0, 3*lineMax), func(n int) string { return strings.Repeat("x", n) }),
		)
		var all strings.Builder
		var passed bytes.Buffer
		o := &output{}
		s := &stream{output: o, lines: &lineWriter{w: &passed, prefix: "m | "}}
		for _, p := range rapid.SliceOfN(piece, 0, 30).Draw(t, "pieces") {
			all.WriteString(p)
			if n, err := s.Write([]byte(p)); n != len(p) || err != nil {
				t.Fatalf("%d, %v", n, err)
			}
		}
		s.lines.end()
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

// hexAddr prints an address as the kernel does.
func hexAddr(port int, ip ...byte) string {
	var s strings.Builder
	for ; len(ip) > 0; ip = ip[4:] {
		fmt.Fprintf(&s, "%08X", binary.NativeEndian.Uint32(ip))
	}
	return fmt.Sprintf("%s:%04X", s.String(), port)
}

func TestListening(t *testing.T) {
	loopback6, any6 := make([]byte, 16), make([]byte, 16)
	loopback6[15] = 1
	row := func(addr, state, inode string) string {
		return "   0: " + addr + " 00000000:0000 " + state + " 00000000:00000000 00:00000000 00000000  1000        0 " + inode + " 1 0000000000000000 100 0 0 10 0\n"
	}
	text := "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n" +
		row(hexAddr(8080, 127, 0, 0, 1), "0A", "11") +
		row(hexAddr(8080, 127, 0, 0, 1), "01", "12") + // a connection
		row(hexAddr(80, 0, 0, 0, 0), "0A", "13") +
		row(hexAddr(80, loopback6...), "0A", "14") +
		row(hexAddr(81, any6...), "0A", "15") +
		row(hexAddr(9, 10, 0, 0, 1), "0A", "99") + // somebody else's
		"nonsense 0A\n" + row("0100:0", "0A", "16") + row("0100007F:1FFFF", "0A", "17") + row("0100007X:1", "0A", "18")
	inodes := map[string]bool{}
	for _, link := range []string{"socket:[11]", "socket:[12]", "socket:[13]", "socket:[14]", "socket:[15]", "socket:[16]", "socket:[17]", "socket:[18]", "pipe:[99]", "/dev/null"} {
		if inode, ok := socketOf(link); ok {
			inodes[inode] = true
		}
	}
	want := []string{"0.0.0.0:80", "127.0.0.1:8080", "[::]:81", "[::1]:80"}
	if diff := cmp.Diff(want, addresses(append(parseListening(text), parseListening(text)...), inodes)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	const rest = " 77 0 -1 0 1 2 3 4 10 20 300 4000 20 0 1"
	for stat, want := range map[string]processStat{
		"123 (app) S 1 77" + rest:   {77, false, 4330},
		"123 (a ) b) R 1 78" + rest: {78, true, 4330},
		"123 (app) D 1 79" + rest:   {79, true, 4330},
		"123 (app) S 1 77 77 0 -1":  {},
		"":                          {},
		"123 (app S 1 77" + rest:    {},
		"1 (x) S 1 x" + rest:        {},
		"1 (x) S 1 2 3 0 -1 0 1 2 3 4 x 20 300 4000": {},
	} {
		if got, ok := parseStat(stat); ok && got != want || ok != (want != processStat{}) {
			t.Errorf("%q: %+v, %v; want %+v", stat, got, ok, want)
		}
	}
}

func FuzzListening(f *testing.F) {
	f.Add("   0: 0100007F:1F90 00000000:0000 0A 0:0 0:0 0 1000 0 12345 1\n", "1 (x) S 1 2 3", "socket:[1]")
	f.Fuzz(func(_ *testing.T, text, stat, link string) {
		for _, l := range parseListening(text) {
			_ = l.addr.String()
		}
		_, _ = parseStat(stat)
		_, _ = socketOf(link)
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
