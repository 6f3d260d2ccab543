package main

import (
	"archive/zip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A proxy is a folder that the go command reads as a module proxy (GOPROXY=file://…): the root module
// and the published nested ones, as the tree has them, under the version that the nested ones require.
// The layout is that of https://go.dev/ref/mod#goproxy-protocol. What git does not track is left out.
func writeProxy(root, dir string, nested []string) (version string, err error) {
	if version, err = required(root, nested); err != nil {
		return "", err
	}
	files, err := tracked(root)
	if err != nil {
		return "", err
	}
	for _, m := range append([]string{"."}, nested...) {
		if err := writeModule(root, dir, m, version, within(m, files)); err != nil {
			return "", fmt.Errorf("module %s: %w", path.Join(module, m), err)
		}
	}
	return version, nil
}

var requirement = regexp.MustCompile(
	`(?m)^(?:require)?\s+` + regexp.QuoteMeta(module) + `(?:/\S+)?\s+(v\S+)`,
)

// required returns the one version of this repository's modules that the nested ones require.
func required(root string, nested []string) (string, error) {
	version, from := "", ""
	for _, dir := range nested {
		mod, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(dir), "go.mod"))
		if err != nil {
			return "", err
		}
		for _, found := range requirement.FindAllStringSubmatch(string(mod), -1) {
			if version != "" && found[1] != version {
				return "", fmt.Errorf("%s requires %s and %s %s: set one version with release VERSION",
					from, version, dir, found[1])
			}
			version, from = found[1], dir
		}
	}
	if version == "" {
		return "", errors.New("no nested module requires the root: nothing to serve")
	}
	return version, nil
}

// tracked returns the files that git knows, with slashes.
func tracked(root string) ([]string, error) {
	list := exec.Command("git", "ls-files", "-z")
	list.Dir = root
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("git ls-files: %w", err)
	}
	return strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00"), nil
}

// within returns the files of the module in dir, relative to it, without those of modules below it.
func within(dir string, files []string) []string {
	var own, below []string
	for _, f := range files {
		rel, ok := strings.CutPrefix(f, dir+"/")
		if dir == "." {
			rel, ok = f, true
		}
		if !ok {
			continue
		}
		if path.Base(rel) == "go.mod" && rel != "go.mod" {
			below = append(below, path.Dir(rel)+"/")
		}
		own = append(own, rel)
	}
	return slices.DeleteFunc(own, func(f string) bool {
		return slices.ContainsFunc(below, func(b string) bool { return strings.HasPrefix(f, b) })
	})
}

func writeModule(root, dir, m, version string, files []string) error {
	name := path.Join(module, m)
	at := filepath.Join(dir, filepath.FromSlash(name), "@v")
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	from := filepath.Join(root, filepath.FromSlash(m))
	mod, err := os.ReadFile(filepath.Join(from, "go.mod"))
	if err != nil {
		return err
	}
	info, err := json.Marshal(map[string]any{"Version": version, "Time": time.Unix(0, 0).UTC()})
	if err != nil {
		return err
	}
	for ext, content := range map[string][]byte{".mod": mod, ".info": info} {
		if err := os.WriteFile(filepath.Join(at, version+ext), content, 0o644); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(at, "list"), []byte(version+"\n"), 0o644); err != nil {
		return err
	}
	out, err := os.Create(filepath.Join(at, version+".zip"))
	if err != nil {
		return err
	}
	defer out.Close()
	z := zip.NewWriter(out)
	for _, f := range files {
		if err := addFile(z, name+"@"+version+"/"+f, filepath.Join(from, filepath.FromSlash(f))); err != nil {
			return err
		}
	}
	return errors.Join(z.Close(), out.Close())
}

func addFile(z *zip.Writer, name, from string) error {
	if s, err := os.Lstat(from); err != nil || !s.Mode().IsRegular() {
		return err // a module's archive has no links
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	w, err := z.Create(name)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, in)
	return err
}
