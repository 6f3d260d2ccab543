// Command release prepares a version of the library: it has every published nested module require
// that version of the others, and prints the commands that tag it.
//
//	go run ./internal/release v0.2.0
//
// It also writes a module proxy on disk that serves the tree as the version that the nested modules
// require, and prints that version: so they can be tested as users get them before anything is tagged.
//
//	go run ./internal/release proxy DIR
//
// A nested module is published unless its path has an element "internal" or "interop": those serve
// this repository only and keep their replace directive.
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

const module = "github.com/ebbkit/ebb"

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	nested, err := published(os.DirFS("."))
	if err != nil {
		return err
	}
	if len(args) == 2 && args[0] == "proxy" {
		version, err := writeProxy(".", args[1], nested)
		if err != nil {
			return err
		}
		fmt.Println(version)
		return nil
	}
	if len(args) != 1 {
		return errors.New("want a version such as v0.2.0, or proxy and a folder")
	}
	plan, err := tags(args[0], nested)
	if err != nil {
		return err
	}
	for _, dir := range nested {
		mod, err := os.ReadFile(filepath.Join(filepath.FromSlash(dir), "go.mod"))
		if err != nil {
			return err
		}
		edit := exec.Command(
			"go",
			append([]string{"mod", "edit"}, edits(string(mod), args[0], nested)...)...)
		edit.Dir, edit.Stderr = filepath.FromSlash(dir), os.Stderr
		if err := edit.Run(); err != nil {
			return fmt.Errorf("%s: go mod edit: %w", dir, err)
		}
		if err := workspace(filepath.Join(filepath.FromSlash(dir), "go.work"), args[0]); err != nil {
			return err
		}
	}
	for _, line := range plan {
		fmt.Println(line)
	}
	return nil
}

var replaced = regexp.MustCompile(
	`(?m)^(replace ` + regexp.QuoteMeta(module) + `(?:/\S+)?) v\S+ =>`,
)

// workspace has a module's workspace, if it has one, replace the version by the tree: until it has its
// tag nobody serves it.
func workspace(file, version string) error {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.WriteFile(file, replaced.ReplaceAll(text, []byte("$1 "+version+" =>")), 0o644)
}

// edits returns the flags of go mod edit with which a nested module requires the version of the root
// and of the other nested modules that it uses.
func edits(mod, version string, nested []string) []string {
	flags := []string{"-require=" + module + "@" + version, "-dropreplace=" + module}
	for _, other := range nested {
		name := path.Join(module, other)
		if regexp.MustCompile(`(?m)^(?:require)?\s+` + regexp.QuoteMeta(name) + `\s+v`).MatchString(mod) {
			flags = append(flags, "-require="+name+"@"+version, "-dropreplace="+name)
		}
	}
	return flags
}

// published returns the folders of the nested modules that users import, sorted.
func published(root fs.FS) ([]string, error) {
	var dirs []string
	err := fs.WalkDir(root, ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && p != "." && (d.Name() == "internal" || d.Name() == "interop" || d.Name() == "testdata" || d.Name()[0] == '.'):
			return fs.SkipDir
		case d.Name() == "go.mod" && p != "go.mod":
			dirs = append(dirs, path.Dir(p))
		}
		return nil
	})
	slices.Sort(dirs)
	return dirs, err
}

var semver = regexp.MustCompile(
	`^v(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(-[0-9A-Za-z.-]+)?$`,
)

// tags returns the commands for a version in their order: nested modules can only be fetched once
// the root has its tag.
func tags(version string, nested []string) ([]string, error) {
	if !semver.MatchString(version) {
		return nil, fmt.Errorf("version %q: want one such as v0.2.0 or v0.2.0-rc.1", version)
	}
	if !strings.HasPrefix(version, "v0.") && !strings.HasPrefix(version, "v1.") {
		return nil, fmt.Errorf("version %q: from v2 on the module's path has to end in /%s", version,
			strings.SplitN(version, ".", 2)[0])
	}
	out := []string{"git commit -am 'release " + version + "'", "git tag " + version}
	for _, dir := range nested {
		out = append(out, "git tag "+dir+"/"+version)
	}
	return append(out, "git push origin HEAD --tags"), nil
}
