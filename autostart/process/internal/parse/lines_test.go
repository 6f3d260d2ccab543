package parse

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLastLine(t *testing.T) {
	long := strings.Repeat("ab", WordsMax)
	for in, want := range map[string]string{
		"":                            "",
		"\n \n\t\n":                   "",
		"one":                         "one",
		"one\ntwo\n":                  "two",
		"one\r\n\r\n   \n":            "one",
		"  File \"x\"\nKeyError: 'a'": "KeyError: 'a'",
		"\x1b[1mbold\x1b[0m\x07":      "[1mbold[0m",
		"grüße\xff\n\x00\n":           "grüße",
		long:                          long[:WordsMax] + "...",
		"x" + long + "\n":             "x" + long[:WordsMax-1] + "...",
	} {
		if got := LastLine([]byte(in)); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
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
		if inode, ok := SocketOf(link); ok {
			inodes[inode] = true
		}
	}
	want := []string{"0.0.0.0:80", "127.0.0.1:8080", "[::]:81", "[::1]:80"}
	if diff := cmp.Diff(want, Addresses(append(ParseListening(text), ParseListening(text)...), inodes)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	const rest = " 77 0 -1 0 1 2 3 4 10 20 300 4000 20 0 1"
	for stat, want := range map[string]ProcessStat{
		"123 (app) S 1 77" + rest:   {77, false, 4330},
		"123 (a ) b) R 1 78" + rest: {78, true, 4330},
		"123 (app) D 1 79" + rest:   {79, true, 4330},
		"123 (app) S 1 77 77 0 -1":  {},
		"":                          {},
		"123 (app S 1 77" + rest:    {},
		"1 (x) S 1 x" + rest:        {},
		"1 (x) S 1 2 3 0 -1 0 1 2 3 4 x 20 300 4000": {},
	} {
		if got, ok := ParseStat(stat); ok && got != want || ok != (want != ProcessStat{}) {
			t.Errorf("%q: %+v, %v; want %+v", stat, got, ok, want)
		}
	}
}

func FuzzListening(f *testing.F) {
	f.Add(
		"   0: 0100007F:1F90 00000000:0000 0A 0:0 0:0 0 1000 0 12345 1\n", "1 (x) S 1 2 3", "socket:[1]",
	)
	f.Fuzz(func(_ *testing.T, text, stat, link string) {
		for _, l := range ParseListening(text) {
			_ = l.Addr.String()
		}
		_, _ = ParseStat(stat)
		_, _ = SocketOf(link)
	})
}
