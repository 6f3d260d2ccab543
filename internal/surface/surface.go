// Package surface writes down what the library exports, so that a change of it is seen in review.
// The golden file is api.txt; its test rewrites it with
//
//	go test ./internal/surface -update
package surface

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
)

// Package is what one package exports.
type Package struct {
	Path  string   // as imported, below the module
	Lines []string // sorted: one for each name, method and field
	Names int      // top-level names
	// exported fields of structs whose name ends in Config, and of structs that are nested in them
	Knobs int
}

// Read returns the public packages of the module at root that are not in nested modules.
func Read(root string) ([]Package, error) {
	var out []Package
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		switch base := d.Name(); {
		case rel == ".":
			return nil
		case strings.HasPrefix(base, "."), base == "internal", base == "testdata", base == "examples":
			return fs.SkipDir
		}
		if nested, _ := filepath.Glob(filepath.Join(path, "go.mod")); nested != nil {
			return fs.SkipDir
		}
		p, err := read(path)
		if err != nil {
			return err
		}
		if p.Lines != nil {
			p.Path = filepath.ToSlash(rel)
			out = append(out, p)
		}
		return nil
	})
	return out, err
}

// read parses all files of a directory, those for other systems included.
func read(dir string) (Package, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return Package{}, err
	}
	s := scan{structs: map[string]*ast.StructType{}, seen: map[string]bool{}}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			return Package{}, err
		}
		for _, d := range f.Decls {
			s.decl(d)
		}
	}
	knobs := map[string]bool{}
	for name := range s.structs {
		if strings.HasSuffix(name, "Config") && ast.IsExported(name) {
			s.knobs(name, name, knobs)
		}
	}
	slices.Sort(s.lines)
	return Package{Lines: s.lines, Names: s.names, Knobs: len(knobs)}, nil
}

type scan struct {
	structs map[string]*ast.StructType
	seen    map[string]bool // a name may stand in a file for each system
	lines   []string
	names   int
}

func (s *scan) line(format string, args ...any) bool {
	l := fmt.Sprintf(format, args...)
	if s.seen[l] {
		return false
	}
	s.seen[l] = true
	s.lines = append(s.lines, l)
	return true
}

func (s *scan) top(kind, name string) {
	if ast.IsExported(name) && s.line("%s %s", kind, name) {
		s.names++
	}
}

func (s *scan) decl(d ast.Decl) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Recv == nil {
			s.top("func", d.Name.Name)
			return
		}
		if recv := base(d.Recv.List[0].Type); ast.IsExported(recv) && d.Name.IsExported() {
			s.line("method %s.%s", recv, d.Name.Name)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch spec := spec.(type) {
			case *ast.ValueSpec:
				for _, n := range spec.Names {
					s.top(d.Tok.String(), n.Name)
				}
			case *ast.TypeSpec:
				s.top("type", spec.Name.Name)
				s.members(spec)
			}
		}
	}
}

func (s *scan) members(t *ast.TypeSpec) {
	switch body := t.Type.(type) {
	case *ast.StructType:
		s.structs[t.Name.Name] = body
		if t.Name.IsExported() {
			for _, f := range fields(body.Fields) {
				s.line("field %s.%s", t.Name.Name, f.name)
			}
		}
	case *ast.InterfaceType:
		if t.Name.IsExported() {
			for _, f := range fields(body.Methods) {
				s.line("method %s.%s", t.Name.Name, f.name)
			}
		}
	}
}

// knobs collects the fields of a configuration; a field whose type is a struct of this package
// counts as its fields.
func (s *scan) knobs(path, name string, into map[string]bool) {
	for _, f := range fields(s.structs[name].Fields) {
		inner := base(f.typ)
		if _, ok := s.structs[inner]; ok && ast.IsExported(inner) && !strings.HasSuffix(inner, "Trace") {
			if _, pointer := f.typ.(*ast.StarExpr); !pointer {
				if !strings.HasSuffix(inner, "Config") {
					s.knobs(path+"."+f.name, inner, into)
				}
				continue // a Config counts once, by its own name
			}
		}
		into[path+"."+f.name] = true
	}
}

type field struct {
	name string
	typ  ast.Expr
}

func fields(l *ast.FieldList) []field {
	var out []field
	for _, f := range l.List {
		if f.Names == nil {
			if n := base(f.Type); ast.IsExported(n) {
				out = append(out, field{n, f.Type})
			}
		}
		for _, n := range f.Names {
			if n.IsExported() {
				out = append(out, field{n.Name, f.Type})
			}
		}
	}
	return out
}

// base is the name of a type without pointers, packages and type arguments.
func base(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.StarExpr:
		return base(e.X)
	case *ast.IndexExpr:
		return base(e.X)
	case *ast.IndexListExpr:
		return base(e.X)
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}
