package contract

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Each guarantee of the README names tests that hold it, and those tests exist.
func TestGuaranteesNameTheirTests(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(readme), "\n## Guarantees\n")
	if !ok {
		t.Fatal("the README has no section of guarantees")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	name := regexp.MustCompile("`([a-z/]+)\\.(Test\\w+)`")
	guarantees := strings.Split(section, "\n- ")[1:]
	if len(guarantees) == 0 {
		t.Fatal("the section of guarantees lists none")
	}
	for _, g := range guarantees {
		tests := name.FindAllStringSubmatch(g, -1)
		if len(tests) == 0 {
			t.Errorf("no test is named for: %.60s", g)
		}
		for _, m := range tests {
			if !hasTest(t, m[1], m[2]) {
				t.Errorf("%s has no %s", m[1], m[2])
			}
		}
	}
}

func hasTest(t *testing.T, dir, test string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "..", dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		source, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(source), "\nfunc "+test+"(") {
			return true
		}
	}
	return false
}
