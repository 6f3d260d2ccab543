package contract

import (
	"bytes"
	"cmp"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/ebbkit/ebb/"

// allowedUnderLock are calls of functions and interfaces that are made under a lock all the same,
// with the reason. A key is the function that holds the lock and what it calls.
var allowedUnderLock = map[string]string{
	"autostart/process.lineWriter.Write: io.Writer.Write":       turn,
	"autostart/process.lineWriter.end: io.Writer.Write":         turn,
	"autostart/process.sharedWriter.Write: io.Writer.Write":     turn,
	"balance/grants.Granter.Back: deal.Gate.Revoke":             "a gate of package balance",
	"balance/grants.Granter.deal: deal.Gate.Load":               "a gate of package balance",
	"backhaul.ending.Read: io.Reader.Read":                      turn,
	"backhaul/internal/pool.Wire.take: net.Conn.Read":           turn,
	"backhaul/internal/pool.Wire.reclaim: net.Conn.SetDeadline": turn,
	"backhaul/internal/pool.mux.get: pool.Exchange.Dial":        later,
	"backhaul/internal/pool.peer.prepare: pool.Exchange.Dial":   later,
	"backhaul.drain.run: net.Listener.Close":                    "one drain after the other: what others ask of a server does not wait for it",
	"backhaul.earlyHints.got: http.ResponseWriter.Header":       "a handler does not return while its answer is being written",
	"backhaul.earlyHints.got: http.ResponseWriter.WriteHeader":  "a handler does not return while its answer is being written",
	"backhaul.Server.open, later: tcpinfo.Reader.ask":           "a function of this module",
	"rtt.Mesh.ask: probe.Config.Random":                         bits,
	"rtt.sender.round: probe.Config.Random":                     bits,
	"autostart/process.portPool.take: net.Listener.Close":       "a listener of package net",
}

// bits come from the generator of math/rand, which nobody replaces.
const bits = "the generator of math/rand"

// later is a function that is only looked up under the lock.
const later = "it is called on a goroutine of its own, with no lock held"

// turn is a lock that is nothing but the turn to read or to write, which are not for two at once.
const turn = "it is the turn to read, or to write"

// Hooks and interfaces are called with no lock held: whoever implements one may call back. This
// reads the source: it follows the locks of each function, statement by statement, and the
// functions that it calls within the module.
func TestNoHookOrInterfaceIsCalledUnderALock(t *testing.T) {
	s := load(t, "./balance", "./balance/grants/...", "./autostart", "./autostart/machine",
		"./autostart/process", "./downscale/cordon", "./downscale/policy", "./downscale",
		"./backhaul", "./backhaul/internal/...", "./rtt", "./rtt/internal/probe")
	found := s.check()
	for _, f := range found {
		if allowedUnderLock[f.key] == "" {
			t.Errorf("%s", f.text)
		}
	}
	for key := range allowedUnderLock {
		if !slices.ContainsFunc(found, func(f finding) bool { return f.key == key }) {
			t.Errorf("%s is allowed and does not happen", key)
		}
	}
}

// source is what the check knows of the module.
type source struct {
	fset  *token.FileSet
	funcs map[*types.Func]*function
}

// function is what one function calls, and what it holds then.
type function struct {
	name  string
	calls []lockedCall
	frees bool   // it gives back a lock that its caller holds: what it calls then is called without
	hook  string // what it calls of others, itself or through others; empty: nothing
	via   string
}

// lockedCall is a call, and the locks that are held where it is made.
type lockedCall struct {
	at     token.Pos
	held   []string
	callee *types.Func // of the module
	hook   string      // else what it calls of others
}

type finding struct{ key, text string }

// load reads packages with their types.
func load(t *testing.T, patterns ...string) *source {
	t.Helper()
	cmd := exec.Command(
		"go",
		append(
			[]string{
				"list", "-export", "-deps", "-f",
				"{{.ImportPath}}\t{{.Export}}\t{{.Dir}}\t{{join .GoFiles \" \"}}\t{{.DepOnly}}",
			},
			patterns...)...)
	cmd.Dir = filepath.Join("..", "..")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Skipf("go list: %v", err)
	}
	exports := map[string]string{}
	s := &source{fset: token.NewFileSet(), funcs: map[*types.Func]*function{}}
	type folder struct {
		path  string
		files []*ast.File
	}
	var folders []folder
	for line := range bytes.Lines(out) {
		f := strings.Split(strings.TrimSpace(string(line)), "\t")
		exports[f[0]] = f[1]
		if f[4] == "true" && !strings.HasPrefix(f[0], module) {
			continue
		}
		is := folder{path: f[0]}
		for name := range strings.FieldsSeq(f[3]) {
			file, err := parser.ParseFile(s.fset, filepath.Join(f[2], name), nil,
				parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			is.files = append(is.files, file)
		}
		folders = append(folders, is)
	}
	// Packages come after those that they import. Types of the module are shared, so that a function
	// is one and the same.
	done := map[string]*types.Package{}
	gc := importer.ForCompiler(s.fset, "gc",
		func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
	config := types.Config{Importer: importerFunc(func(path string) (*types.Package, error) {
		if p := done[path]; p != nil {
			return p, nil
		}
		return gc.Import(path)
	})}
	var infos []*walk
	for _, f := range folders {
		info := &types.Info{
			Uses: map[*ast.Ident]types.Object{}, Defs: map[*ast.Ident]types.Object{},
			Types:      map[ast.Expr]types.TypeAndValue{},
			Selections: map[*ast.SelectorExpr]*types.Selection{},
		}
		p, err := config.Check(f.path, s.fset, f.files, info)
		if err != nil {
			t.Fatal(err)
		}
		done[f.path] = p
		for _, file := range f.files {
			for _, d := range file.Decls {
				if d, ok := d.(*ast.FuncDecl); ok && d.Body != nil {
					of := info.Defs[d.Name].(*types.Func)
					w := &walk{source: s, info: info, pkg: p, in: &function{name: nameOf(of)}, body: d.Body}
					w.in.frees = w.freesFirst(d.Body)
					s.funcs[of] = w.in
					infos = append(infos, w)
				}
			}
		}
	}
	for _, w := range infos {
		w.block(w.body.List, locks{})
	}
	return s
}

// freesFirst reports whether the first thing that a function does to a lock is to give it back.
func (w *walk) freesFirst(body *ast.BlockStmt) (frees bool) {
	first := true
	ast.Inspect(body, func(n ast.Node) bool {
		if _, ok := n.(*ast.FuncLit); ok {
			return false
		}
		if _, name, ok := w.lockCall(n); ok && first {
			first, frees = false, strings.HasSuffix(name, "Unlock")
		}
		return true
	})
	return frees
}

type importerFunc func(string) (*types.Package, error)

func (f importerFunc) Import(path string) (*types.Package, error) { return f(path) }

func nameOf(f *types.Func) string {
	return strings.NewReplacer(module, "", "*", "", "(", "", ")", "").Replace(f.FullName())
}

// locks are those that are held, by the expression that names them.
type locks map[string]bool

// walk goes through one function.
type walk struct {
	*source
	info *types.Info
	pkg  *types.Package
	in   *function
	body *ast.BlockStmt
}

// block walks statements. It returns what is held afterwards; ends is true when nothing comes after
// them.
func (w *walk) block(list []ast.Stmt, held locks) (after locks, ends bool) {
	for _, s := range list {
		if held, ends = w.stmt(s, held); ends {
			return held, true
		}
	}
	return held, false
}

// branches walks alternatives and returns what may be held after them.
func (w *walk) branches(held locks, all ...[]ast.Stmt) locks {
	after := locks{}
	for _, list := range all {
		if h, ends := w.block(list, maps.Clone(held)); !ends {
			maps.Copy(after, h)
		}
	}
	return after
}

func (w *walk) stmt(s ast.Stmt, held locks) (locks, bool) {
	switch s := s.(type) {
	case *ast.ReturnStmt:
		w.exprs(held, s)
		return held, true
	case *ast.BranchStmt:
		return held, s.Tok != token.FALLTHROUGH
	case *ast.BlockStmt:
		return w.block(s.List, held)
	case *ast.LabeledStmt:
		return w.stmt(s.Stmt, held)
	case *ast.IfStmt:
		held = w.simple(s.Init, held)
		w.exprs(held, s.Cond)
		other := []ast.Stmt{}
		if s.Else != nil {
			other = []ast.Stmt{s.Else}
		}
		if s.Else != nil || isTry(s.Cond) {
			held = w.lock(s.Cond, held)
		}
		_, a := w.block(s.Body.List, maps.Clone(held))
		_, b := w.block(other, maps.Clone(held))
		return w.branches(held, s.Body.List, other), a && b
	case *ast.ForStmt:
		held = w.simple(s.Init, held)
		w.exprs(held, s.Cond)
		after := w.branches(held, s.Body.List, nil)
		w.simple(s.Post, after)
		return after, s.Cond == nil && !breaks(s.Body)
	case *ast.RangeStmt:
		w.exprs(held, s.X)
		return w.branches(held, s.Body.List, nil), false
	case *ast.SwitchStmt:
		held = w.simple(s.Init, held)
		w.exprs(held, s.Tag)
		return w.cases(s.Body, held), false
	case *ast.TypeSwitchStmt:
		held = w.simple(s.Init, held)
		return w.cases(s.Body, held), false
	case *ast.SelectStmt:
		return w.cases(s.Body, held), false
	case *ast.DeferStmt:
		if _, name, ok := w.lockCall(s.Call); ok && name != "Lock" {
			return held, false // held to the end
		}
		if lit, ok := s.Call.Fun.(*ast.FuncLit); ok {
			// when it runs, what is held to the end may still be: not followed
			w.block(lit.Body.List, locks{})
			return held, false
		}
		if f := w.funcs[w.callee(s.Call)]; f != nil && f.frees {
			return held, false // held to the end
		}
		w.exprs(held, s.Call)
		return held, false
	case *ast.GoStmt:
		for _, a := range s.Call.Args {
			w.exprs(held, a)
		}
		if lit, ok := s.Call.Fun.(*ast.FuncLit); ok {
			w.apart(lit)
		}
		return held, false
	default:
		return w.simple(s, held), false
	}
}

func (w *walk) cases(body *ast.BlockStmt, held locks) locks {
	after := maps.Clone(held)
	for _, c := range body.List {
		switch c := c.(type) {
		case *ast.CaseClause:
			for _, e := range c.List {
				w.exprs(held, e)
			}
			maps.Copy(after, w.branches(held, c.Body))
		case *ast.CommClause:
			maps.Copy(after, w.branches(held, append([]ast.Stmt{}, c.Body...)))
		}
	}
	return after
}

// simple walks a statement without others in it, which may take or leave a lock.
func (w *walk) simple(s ast.Stmt, held locks) locks {
	if s == nil {
		return held
	}
	if e, ok := s.(*ast.ExprStmt); ok {
		if lock, name, ok := w.lockCall(e.X); ok {
			held = maps.Clone(held)
			switch name {
			case "Lock", "RLock":
				held[lock] = true
			case "Unlock", "RUnlock":
				delete(held, lock)
			}
			return held
		}
		if c, ok := e.X.(*ast.CallExpr); ok && w.frees(c) {
			w.exprs(held, e)
			return locks{}
		}
	}
	if a, ok := s.(*ast.AssignStmt); ok &&
		a.Tok == token.DEFINE { // f := trace.Stopped, to be called later on
		for _, e := range a.Rhs {
			if sel, ok := e.(*ast.SelectorExpr); ok {
				if hook := w.hookField(sel); hook != "" && sel.Sel.IsExported() {
					w.in.calls = append(w.in.calls,
						lockedCall{at: e.Pos(), held: slices.Sorted(maps.Keys(held)), hook: hook})
				}
			}
		}
	}
	w.exprs(held, s)
	return held
}

// frees reports whether c gives back a lock for good, and does nothing more with it.
func (w *walk) frees(c *ast.CallExpr) bool {
	f := w.funcs[w.callee(c)]
	return f != nil && f.frees && len(c.Args) <= 1 &&
		!slices.ContainsFunc(c.Args, func(a ast.Expr) bool { _, ok := a.(*ast.FuncLit); return ok })
}

// lock adds what a condition locks.
func (w *walk) lock(cond ast.Expr, held locks) locks {
	ast.Inspect(cond, func(n ast.Node) bool {
		if c, ok := n.(*ast.CallExpr); ok {
			if lock, name, ok := w.lockCall(c); ok && strings.HasPrefix(name, "Try") {
				held = maps.Clone(held)
				held[lock] = true
			}
		}
		return true
	})
	return held
}

func isTry(e ast.Expr) bool {
	u, ok := e.(*ast.UnaryExpr)
	return ok && u.Op == token.NOT
}

// lockCall reports whether e is a call of a mutex.
func (w *walk) lockCall(e ast.Node) (lock, name string, ok bool) {
	c, isCall := e.(*ast.CallExpr)
	if !isCall {
		return "", "", false
	}
	sel, isSel := c.Fun.(*ast.SelectorExpr)
	if !isSel {
		return "", "", false
	}
	f, _ := w.info.Uses[sel.Sel].(*types.Func)
	if f == nil || f.Pkg() == nil || f.Pkg().Path() != "sync" ||
		!strings.HasSuffix(strings.TrimPrefix(f.Name(), "Try"), "ock") {
		return "", "", false
	}
	return types.ExprString(sel.X), f.Name(), true
}

// apart walks what runs later, or on another goroutine: with no lock of this function.
func (w *walk) apart(lit *ast.FuncLit) {
	later := &walk{
		source: w.source, info: w.info, pkg: w.pkg, in: &function{name: w.in.name + ", later"},
	}
	w.funcs[types.NewFunc(lit.Pos(), w.pkg, later.in.name, types.NewSignatureType(nil, nil, nil, nil, nil, false))] = later.in
	later.block(lit.Body.List, locks{})
}

// exprs finds the calls within n.
func (w *walk) exprs(held locks, n ast.Node) {
	if n == nil || n == ast.Expr(nil) {
		return
	}
	ast.Inspect(n, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit:
			w.apart(n)
			return false
		case *ast.CallExpr:
			if lit, ok := n.Fun.(*ast.FuncLit); ok {
				for _, a := range n.Args {
					w.exprs(held, a)
				}
				w.block(lit.Body.List, maps.Clone(held))
				return false
			}
			w.call(held, n)
			w.litArgs(held, n)
			for _, a := range n.Args {
				if _, ok := a.(*ast.FuncLit); !ok {
					w.exprs(held, a)
				}
			}
			w.exprs(held, n.Fun)
			return false
		}
		return true
	})
}

// litArgs walks functions that a call is given. What the module calls, or what sorts and searches,
// calls them at once.
func (w *walk) litArgs(held locks, c *ast.CallExpr) {
	later := false
	if f := w.callee(c); f != nil && f.Pkg() != nil {
		switch f.Pkg().Path() {
		case "time", "context", "sync":
			later = f.Name() != "Do"
		default: // it keeps what it is given for later, or calls it without the lock
			later = strings.HasPrefix(f.Name(), "on") || strings.HasPrefix(f.Name(), "On") ||
				w.funcs[f] != nil && w.funcs[f].frees
		}
	}
	for _, a := range c.Args {
		if lit, ok := a.(*ast.FuncLit); ok {
			if later {
				w.apart(lit)
			} else {
				w.block(lit.Body.List, maps.Clone(held))
			}
		}
	}
}

func (w *walk) callee(c *ast.CallExpr) *types.Func {
	fun := ast.Unparen(c.Fun)
	if x, ok := fun.(*ast.IndexExpr); ok {
		fun = x.X
	}
	var id *ast.Ident
	switch fun := fun.(type) {
	case *ast.Ident:
		id = fun
	case *ast.SelectorExpr:
		id = fun.Sel
	default:
		return nil
	}
	f, _ := w.info.Uses[id].(*types.Func)
	if f != nil {
		f = f.Origin()
	}
	return f
}

// call notes a call.
func (w *walk) call(held locks, c *ast.CallExpr) {
	note := func(l lockedCall) {
		l.at, l.held = c.Pos(), slices.Sorted(maps.Keys(held))
		w.in.calls = append(w.in.calls, l)
	}
	for _, a := range c.Args { // call(trace.Stopped, ...)
		if sel, ok := a.(*ast.SelectorExpr); ok {
			if hook := w.hookField(sel); hook != "" && w.callee(c) != nil {
				note(lockedCall{hook: hook})
			}
		}
	}
	if sel, ok := ast.Unparen(c.Fun).(*ast.SelectorExpr); ok {
		if hook := w.hookField(sel); hook != "" {
			note(lockedCall{hook: hook})
			return
		}
	}
	f := w.callee(c)
	if f == nil {
		return
	}
	recv := f.Signature().Recv()
	if recv != nil && types.IsInterface(recv.Type()) {
		if hook := foreign(recv.Type(), f); hook != "" {
			note(lockedCall{hook: hook})
		}
		return
	}
	if f.Pkg() == nil {
		return
	}
	if recv != nil && f.Pkg().Path() == "log/slog" && f.Name() != "Handler" &&
		strings.HasSuffix(recv.Type().String(), "slog.Logger") {
		note(lockedCall{hook: "slog.Logger." + f.Name()})
		return
	}
	if f.Pkg().Path() == "net/http" && recv != nil &&
		strings.HasSuffix(recv.Type().String(), "http.ClientConn") &&
		f.Name() == "Close" {
		note(lockedCall{hook: "net.Conn.Close, of an http.ClientConn"})
		return
	}
	if strings.HasPrefix(f.Pkg().Path()+"/", module) {
		note(lockedCall{callee: f})
	}
}

// hookField returns the name of a field that holds a function of others.
func (w *walk) hookField(sel *ast.SelectorExpr) string {
	s := w.info.Selections[sel]
	if s == nil || s.Kind() != types.FieldVal {
		return ""
	}
	if _, ok := s.Obj().Type().Underlying().(*types.Signature); !ok ||
		strings.HasPrefix(types.TypeString(s.Obj().Type(), nil), "context.Cancel") {
		return ""
	}
	return strings.ReplaceAll(types.TypeString(s.Recv(), (*types.Package).Name), "*",
		"") + "." + s.Obj().Name()
}

// foreign returns the name of an interface's method that others may implement.
func foreign(of types.Type, f *types.Func) string {
	named, ok := of.(*types.Named)
	if !ok || named.Obj().Pkg() == nil { // error
		return ""
	}
	switch p := named.Obj().Pkg().Path(); p {
	case "context", "hash", "reflect", "go/types":
		return ""
	case "syscall", "encoding":
		return ""
	default:
		if strings.HasPrefix(p, module) && !named.Obj().Exported() {
			return "" // ours
		}
	}
	return named.Obj().Pkg().Name() + "." + named.Obj().Name() + "." + f.Name()
}

// breaks reports whether a loop's body leaves it.
func breaks(body *ast.BlockStmt) (found bool) {
	ast.Inspect(body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit, *ast.ForStmt, *ast.RangeStmt, *ast.SelectStmt, *ast.SwitchStmt:
			ast.Inspect(n, func(n ast.Node) bool {
				if b, ok := n.(*ast.BranchStmt); ok && b.Tok == token.BREAK && b.Label != nil {
					found = true
				}
				return true
			})
			return false
		case *ast.BranchStmt:
			found = found || n.Tok == token.BREAK
		}
		return true
	})
	return found
}

// check finds what is called under a lock.
func (s *source) check() (found []finding) {
	// In the order of the source, so that of several hooks the same one is named each time.
	var funcs []*function
	for _, of := range slices.SortedFunc(maps.Keys(s.funcs), func(a, b *types.Func) int {
		return cmp.Compare(a.Pos(), b.Pos())
	}) {
		funcs = append(funcs, s.funcs[of])
	}
	for again := true; again; {
		again = false
		for _, f := range funcs {
			for _, c := range f.calls {
				if f.hook != "" || f.frees {
					break
				}
				if c.hook != "" {
					f.hook = c.hook
				} else if of := s.funcs[c.callee]; of != nil && of.hook != "" {
					f.hook, f.via = of.hook, of.name+" > "+of.via
				}
				again = again || f.hook != ""
			}
		}
	}
	seen := map[string]bool{}
	for _, f := range funcs {
		for _, c := range f.calls {
			if len(c.held) == 0 {
				continue
			}
			hook, via := c.hook, ""
			if of := s.funcs[c.callee]; of != nil && of.hook != "" {
				hook, via = of.hook, ", through "+strings.TrimSuffix(of.name+" > "+of.via, " > ")
			}
			key := f.name + ": " + hook
			if hook == "" || seen[key+via] {
				continue
			}
			seen[key+via] = true
			at := s.fset.Position(c.at)
			found = append(
				found,
				finding{
					key,
					fmt.Sprintf("%s/%s:%d: %s holds %s and calls %s%s", filepath.Base(filepath.Dir(at.Filename)),
						filepath.Base(at.Filename), at.Line, f.name, strings.Join(c.held, ", "), hook, via),
				},
			)
		}
	}
	slices.SortFunc(found, func(a, b finding) int { return strings.Compare(a.text, b.text) })
	return found
}
