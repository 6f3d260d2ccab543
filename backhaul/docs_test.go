package backhaul

import (
	"cmp"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
)

// packageComment returns what the package says of itself.
func packageComment(t *testing.T) string {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), "doc.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	return parsed.Doc.Text()
}

// The decision table of the package comment says what the code does, and names a test for each row:
// they exist.
func TestTheDecisionTableNamesItsTests(t *testing.T) {
	tests := map[string]bool{}
	fset := token.NewFileSet()
	comment := packageComment(t)
	here, _ := filepath.Glob("*_test.go")
	below, _ := filepath.Glob("internal/*/*_test.go")
	for _, name := range append(here, below...) {
		parsed, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			t.Fatal(err)
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
	// Each failure has a row, in the part of the table that is its certainty's, and each row a test.
	_, table, _ := strings.Cut(comment, "has a [Failure.Certainty]:")
	table, _, _ = strings.Cut(table, "and by that, by the request's method")
	rows, part := map[string]string{}, ""
	begins := regexp.MustCompile(`^\t(.{15})([a-z]+) +\S`)
	tested := true
	for line := range strings.Lines(table) {
		tested = tested || strings.HasPrefix(strings.TrimSpace(line), "Test")
		row := begins.FindStringSubmatch(line)
		if row == nil {
			continue
		}
		if !tested {
			t.Errorf("the row before %q names no test", strings.TrimSpace(line))
		}
		tested = false
		part = cmp.Or(strings.TrimSpace(row[1]), part)
		if was := rows[row[2]]; was != "" && was != part {
			t.Errorf("%q stands under %s and %s", row[2], was, part)
		}
		rows[row[2]] = part
	}
	if !tested {
		t.Error("the last row names no test")
	}
	delete(rows, "bounce")
	for f := hop.FailureNone + 1; !strings.HasPrefix(f.String(), "failure("); f++ {
		want := strings.ReplaceAll(f.Certainty().String(), " ", "")
		if f == hop.FailureClient {
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

// What the package comment says of a certainty, the code does: with a method that is not
// idempotent, with one that is, and with a body of which some is gone.
func TestTheDecisionTableIsTheCodes(t *testing.T) {
	row := regexp.MustCompile(`(?m)^\t(\w+) +(yes|no) +(yes|no) +(yes|no)$`)
	rows := map[string][]string{}
	for _, r := range row.FindAllStringSubmatch(packageComment(t), -1) {
		rows[strings.ToLower(r[1])] = r[2:]
	}
	if len(rows) != 4 {
		t.Errorf("the table has %d rows, want one for each certainty", len(rows))
	}
	for f := hop.FailureNone + 1; !strings.HasPrefix(f.String(), "failure("); f++ {
		if f == hop.FailureClient || f == FailureDeadline {
			continue // the comment says so below the table
		}
		for i, try := range []struct {
			idempotent bool
			body       hop.BodyState
		}{{false, hop.BodyWhole}, {true, hop.BodyWhole}, {false, hop.BodySpent}, {true, hop.BodySpent}} {
			got := "no"
			var s hop.Retries
			if s.Failed(hop.RetryLimits{Failures: 1}, f, try.idempotent, try.body) == hop.NextElsewhere {
				got = "yes"
			}
			want := rows[strings.ReplaceAll(f.Certainty().String(), " ", "")]
			if want == nil || got != want[min(i, 2)] {
				t.Errorf(
					"%s, idempotent %v, body %d: sent again: %s; the table: %v", f, try.idempotent, try.body, got,
					want,
				)
			}
		}
	}
}
