// Command release prepares a version of the library: it has every published nested module require
// that version of the root module, and prints the commands that tag it.
//
//	go run ./internal/release v0.2.0
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
	if len(args) != 1 {
		return errors.New("want one argument, the version, such as v0.2.0")
	}
	nested, err := published(os.DirFS("."))
	if err != nil {
		return err
	}
	plan, err := tags(args[0], nested)
	if err != nil {
		return err
	}
	for _, dir := range nested {
		edit := exec.Command("go", "mod", "edit", "-require="+module+"@"+args[0], "-dropreplace="+module)
		edit.Dir, edit.Stderr = filepath.FromSlash(dir), os.Stderr
		if err := edit.Run(); err != nil {
			return fmt.Errorf("%s: go mod edit: %w", dir, err)
		}
	}
	for _, line := range plan {
		fmt.Println(line)
	}
	return nil
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
