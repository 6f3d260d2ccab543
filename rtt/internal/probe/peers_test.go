package probe

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestChoose(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var in []Node
		for i := range rapid.IntRange(0, 60).Draw(t, "n") {
			in = append(
				in,
				Node{
					ID: fmt.Sprint("n", i), Region: rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "region"),
				},
			)
		}
		if len(in) > 0 {
			in = append(in, in[0]) // twice
		}
		in = append(in, Node{}, Node{ID: "self"})
		max := rapid.IntRange(1, 40).Draw(t, "max")
		got := Choose("self", in, max)
		all := Choose("self", in, 1000)
		if len(got) != min(max, len(all)) {
			t.Fatalf("%d of %d chosen with a limit of %d", len(got), len(all), max)
		}
		perRegion := map[string]int{}
		inAll := map[string]int{}
		for i, n := range got {
			if n.ID == "" || n.ID == "self" || i > 0 && got[i-1].ID >= n.ID {
				t.Fatalf("%v", got)
			}
			perRegion[n.Region]++
		}
		for _, n := range all {
			inAll[n.Region]++
		}
		for r := range inAll { // no region gets fewer while another gets two more
			for q := range inAll {
				if perRegion[r] < perRegion[q]-1 && perRegion[r] < inAll[r] {
					t.Fatalf("region %s has %d of %d, %s has %d", r, perRegion[r], inAll[r], q, perRegion[q])
				}
			}
		}
		// The order of the list does not matter.
		rand.New(rand.NewPCG(1, 2)).Shuffle(len(in), func(i, j int) { in[i], in[j] = in[j], in[i] })
		if again := Choose("self", in, max); !slices.Equal(got, again) {
			t.Fatalf("%v, and of the shuffled list %v", got, again)
		}
	})
}

// The nodes of one region probe different ones of another, and together all of them.
func TestChooseSpreads(t *testing.T) {
	var in []Node
	for i := range 60 {
		in = append(in, Node{ID: fmt.Sprint("n", i), Region: fmt.Sprint("r", i%3)})
	}
	probed := map[string]int{}
	for i := range 30 {
		for _, n := range Choose(fmt.Sprint("prober", i), in, 12) {
			probed[n.ID]++
		}
	}
	for _, n := range in { // 6 in the mean
		if probed[n.ID] == 0 || probed[n.ID] > 18 {
			t.Errorf("%s is probed by %d of 30", n.ID, probed[n.ID])
		}
	}
}
