// Package purity holds the rule that the library's claims rest on: what decides does not act. Its
// test lists the pure packages, parses every file of theirs, and fails on goroutines, channels,
// clocks, chance and I/O, and on the import of a package of this module that is not pure itself.
// Of a package that also acts, the files that do are listed, and all others are parsed.
package purity

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// module is the path of this module, with the slash that its packages' names follow.
const module = "github.com/ebbkit/ebb/"

// forbiddenImports are the packages through which a core would act, wait or be surprised.
var forbiddenImports = []string{
	"context", "log", "log/slog", "math/rand", "math/rand/v2", "net", "net/http", "os", "sync",
	"sync/atomic", "syscall", "io", "bufio", "crypto/rand",
}

// forbiddenCalls are functions of permitted packages that read the clock or wait.
var forbiddenCalls = map[string][]string{
	"time": {
		"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick",
	},
}

// Files returns the Go files of a folder, without tests.
func Files(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		name := e.Name()
		if strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go") {
			files = append(files, filepath.Join(dir, name))
		}
	}
	return files, nil
}

// Impure returns the packages of this module that a file imports and that are not in pure. Names
// are relative to the module, as in "balance".
func Impure(file string, pure []string) ([]string, error) {
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, i := range f.Imports {
		name, _ := strconv.Unquote(i.Path.Value)
		if own, ok := strings.CutPrefix(name, module); ok && !slices.Contains(pure, own) {
			found = append(found, own)
		}
	}
	return found, nil
}

// Check parses one file and returns what it does that a core may not, as file:line: what. allow
// names imports that this file may have all the same.
func Check(file string, allow ...string) ([]string, error) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, file, nil, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var found []string
	note := func(n ast.Node, what string) {
		p := fset.Position(n.Pos())
		found = append(found, fmt.Sprintf("%s:%d: %s", path.Base(p.Filename), p.Line, what))
	}
	for _, i := range f.Imports {
		name, _ := strconv.Unquote(i.Path.Value)
		if slices.Contains(forbiddenImports, name) && !slices.Contains(allow, name) {
			note(i, "imports "+name)
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			note(n, "starts a goroutine")
		case *ast.ChanType:
			note(n, "uses a channel")
		case *ast.SendStmt:
			note(n, "sends on a channel")
		case *ast.SelectStmt:
			note(n, "waits in a select")
		case *ast.UnaryExpr:
			if n.Op == token.ARROW {
				note(n, "receives from a channel")
			}
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && slices.Contains(forbiddenCalls[x.Name], n.Sel.Name) {
				note(n, "calls "+x.Name+"."+n.Sel.Name)
			}
		}
		return true
	})
	return found, nil
}
