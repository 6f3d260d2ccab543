package backhaul

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strings"
	"testing"
)

// The decision table of the package comment names a test for each row: they exist, and no failure is without one.
func TestTheDecisionTableNamesItsTests(t *testing.T) {
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]bool{}
	comment := ""
	fset := token.NewFileSet()
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") {
			continue
		}
		parsed, err := parser.ParseFile(fset, f.Name(), nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		if f.Name() == "backhaul.go" {
			comment = parsed.Doc.Text()
		}
		for _, d := range parsed.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil {
				tests[fn.Name.Name] = true
			}
		}
	}
	named := regexp.MustCompile(`\bTest\w+`).FindAllString(comment, -1)
	if len(named) < 15 {
		t.Errorf("the table names %d tests", len(named))
	}
	for _, name := range named {
		if !tests[name] {
			t.Errorf("the table names %s, which does not exist", name)
		}
	}
	for f := FailNone + 1; f < failures; f++ {
		row := regexp.MustCompile(`(?m)\b` + f.String() + `\s+\S.*\bTest\w+$`)
		if !row.MatchString(comment) {
			t.Errorf("no row with a test for %q", f)
		}
	}
}
