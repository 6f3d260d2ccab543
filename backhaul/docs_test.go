package backhaul

import (
	"cmp"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strings"
	"testing"
)

// The decision table of the package comment says what the code does, and names a test for each row: they exist.
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
	// Each failure has a row, in the part of the table that is its certainty's.
	rows, part := map[string]string{}, ""
	for line := range strings.Lines(comment) {
		row := regexp.MustCompile(`^\t(.{15})([a-z]+)\s+\S.*\bTest\w+$`).FindStringSubmatch(strings.TrimRight(line, "\n"))
		if row == nil {
			continue
		}
		part = cmp.Or(strings.TrimSpace(row[1]), part)
		if was := rows[row[2]]; was != "" && was != part {
			t.Errorf("%q stands under %s and %s", row[2], was, part)
		}
		rows[row[2]] = part
	}
	delete(rows, "bounce")
	for f := FailNone + 1; f.String() != "unknown"; f++ {
		want := strings.ReplaceAll(f.Certainty().String(), " ", "")
		if f == FailClient {
			want = "-"
		}
		if got := rows[f.String()]; !strings.EqualFold(got, want) {
			t.Errorf("%q stands under %q in the table, and is %s", f, got, f.Certainty())
		}
		delete(rows, f.String())
	}
	for f := range rows {
		t.Errorf("the table has a row for %q, which is no failure", f)
	}
}
