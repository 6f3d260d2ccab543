package report

import (
	"strings"
	"testing"
)

func TestAnswersThatFail(t *testing.T) {
	for _, tc := range []struct {
		answers string // f for one that failed, . for a good one; changes are marked
		says    string
	}{
		{"f!", "its only answer failed, with 500 Internal Server Error"},
		{"f!ff", "3 of its last 3 answers failed, the last with 500 Internal Server Error"},
		{".f!", "1 of its last 2 answers failed, the last with 500 Internal Server Error"},
		{"...f..f..f", ""},
		{"..........ffff.f!", "5 of its last 10 answers failed, the last with 500 Internal Server Error"},
		{"f!.........", "1 of its last 10 answers failed, the last with 500 Internal Server Error"},
		{"f!..........!", ""},
		{"f!..........!.f.........f.", ""},
	} {
		var l lately
		got := ""
		for _, r := range strings.ReplaceAll(tc.answers, "!", "") {
			got += string(r)
			status := 200
			if r == 'f' {
				status = 500
			}
			if l.add(status, r == 'f') {
				got += "!"
			}
		}
		if got != tc.answers || l.String() != tc.says {
			t.Errorf("changes %q, want %q; it says %q, want %q", got, tc.answers, l.String(), tc.says)
		}
	}
}
