package surface

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write api.txt anew")

// What the library exports is what api.txt says: who adds, renames or removes a name changes that
// file in the same commit.
func TestTheSurfaceIsAsWrittenDown(t *testing.T) {
	packages, err := Read("../..")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	names, knobs := 0, 0
	for _, p := range packages {
		names, knobs = names+p.Names, knobs+p.Knobs
	}
	fmt.Fprintf(&b, "%d names, %d knobs\n", names, knobs)
	for _, p := range packages {
		fmt.Fprintf(&b, "\n%s: %d names, %d knobs\n", p.Path, p.Names, p.Knobs)
		for _, l := range p.Lines {
			fmt.Fprintf(&b, "\t%s\n", l)
		}
	}
	if *update {
		if err := os.WriteFile("api.txt", []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile("api.txt")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(golden), "\n"), strings.Split(b.String(), "\n")); diff != "" {
		t.Errorf(
			"the surface changed; if that is meant: go test ./internal/surface -update\n(-written down +found)\n%s",
			diff,
		)
	}
}
