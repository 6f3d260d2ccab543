package balance

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// core are the files that decide: arguments in, value out. cells are the third kind, which only adds atomics: counts and
// words that are shared without locks, and the strategies' ways of looking at them.
var (
	core  = []string{"affinity.go", "app.go", "balance.go", "bounce.go", "closest.go", "draw.go", "errors.go", "explain.go", "leastload.go", "look.go", "machine.go", "nothing.go", "order.go", "outlier.go", "pack.go", "past.go", "request.go", "slice.go", "slots.go", "snapshot.go", "spill.go", "strategy.go", "tier.go", "update.go", "view.go", "want.go", "waterfill.go", "word.go"}
	cells = []string{"area.go", "index.go", "region.go", "row.go"}
)

func TestCoreFilesArePure(t *testing.T) {
	for _, file := range append(slices.Clone(core), cells...) {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range f.Imports {
			path, _ := strconv.Unquote(i.Path.Value)
			allowed := slices.Contains([]string{"cmp", "errors", "fmt", "iter", "maps", "math", "slices", "strings", "time", "github.com/cespare/xxhash/v2"}, path) ||
				path == "sync/atomic" && slices.Contains(cells, file)
			if !allowed {
				t.Errorf("%s imports %s", file, path)
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt, *ast.ChanType, *ast.SelectStmt, *ast.SendStmt:
				t.Errorf("%s has a %T", file, n)
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && strings.Contains("Now Sleep After Tick NewTimer NewTicker Since Until", n.Sel.Name) {
					t.Errorf("%s calls time.%s", file, n.Sel.Name)
				}
			}
			return true
		})
	}
}
