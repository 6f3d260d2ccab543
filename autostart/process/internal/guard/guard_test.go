package guard

import (
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

func TestServeKillsWhatIsLeft(t *testing.T) {
	for _, test := range []struct {
		name, in string
		want     []int
	}{
		{"nothing", "", nil},
		{"all gone", "+10\n+11\n-10\n-11\n", nil},
		{"one left", "+10\n+11\n-10\n", []int{11}},
		{"told twice", "+10\n+10\n-10\n", nil},
		{"number used again", "+10\n-10\n+10\n", []int{10}},
		{"gone before it came", "-10\n+10\n", []int{10}},
		{"never everything, never ourselves", "+1\n+0\n+-1\n+-10\n", nil},
		{"half a number", "+10\n+11", []int{10}},
		{"rubbish", "\n+\n-\nx\n10\n+1x\n+10\n", []int{10}},
		{"a long line ends it", "+10\n" + strings.Repeat("x", 5000) + "\n+11\n", []int{10}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got []int
			serve(iotest.OneByteReader(strings.NewReader(test.in)), func(pgid int) { got = append(got, pgid) })
			slices.Sort(got)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func FuzzServe(f *testing.F) {
	f.Add("+10\n-10\n+12\n")
	f.Fuzz(func(t *testing.T, in string) {
		serve(strings.NewReader(in), func(pgid int) {
			if pgid <= 1 {
				t.Fatalf("%q kills %d", in, pgid)
			}
		})
	})
}
