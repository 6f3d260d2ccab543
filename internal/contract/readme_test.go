package contract

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Each guarantee of the README, and of the documentation, names tests that hold it, and those
// tests exist.
func TestGuaranteesNameTheirTests(t *testing.T) {
	guaranteesOf(t, "README.md", "## ", "")
	guaranteesOf(t, "doc.go", "# ", "// ")
}

func guaranteesOf(t *testing.T, file, heading, margin string) {
	t.Helper()
	text, err := os.ReadFile("../../" + file)
	if err != nil {
		t.Fatal(err)
	}
	text = regexp.MustCompile("(?m)^"+margin+" *").ReplaceAll(text, nil)
	_, section, ok := strings.Cut(string(text), "\n"+heading+"Guarantees\n")
	if !ok {
		t.Fatalf("%s has no section of guarantees", file)
	}
	section, _, _ = strings.Cut(section, "\n"+heading)
	name := regexp.MustCompile(`\b([a-z/]+)\.(Test\w+)`)
	guarantees := strings.Split(section, "\n- ")[1:]
	if len(guarantees) == 0 {
		t.Fatalf("the section of guarantees of %s lists none", file)
	}
	for _, g := range guarantees {
		tests := name.FindAllStringSubmatch(g, -1)
		if len(tests) == 0 {
			t.Errorf("%s names no test for: %.60s", file, g)
		}
		for _, m := range tests {
			if !hasTest(t, m[1], m[2]) {
				t.Errorf("%s: %s has no %s", file, m[1], m[2])
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
