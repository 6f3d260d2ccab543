package main

import (
	"archive/zip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// Nested modules that users import are released with the root, those that only serve this
// repository are not.
func TestPublishedModules(t *testing.T) {
	file := &fstest.MapFile{}
	got, err := published(fstest.MapFS{
		"go.mod": file, "b/nats/go.mod": file, "a/metrics/go.mod": file,
		"internal/tools/go.mod": file, "backhaul/interop/go.mod": file, "x/testdata/go.mod": file, ".ci/go.mod": file,
	})
	if err != nil || !slices.Equal(got, []string{"a/metrics", "b/nats"}) {
		t.Errorf("published: %v, %v", got, err)
	}
}

func TestTags(t *testing.T) {
	got, err := tags("v0.2.0", []string{"a/metrics"})
	want := []string{
		"git commit -am 'release v0.2.0'", "git tag v0.2.0", "git tag a/metrics/v0.2.0",
		"git push origin HEAD --tags",
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("tags: %q, %v", got, err)
	}
	for version, remedy := range map[string]string{"0.2.0": "want one such as", "v1": "want one such as", "v01.0.0": "want one such as", "v2.0.0": "/v2"} {
		if _, err := tags(version, nil); err == nil || !strings.Contains(err.Error(), remedy) {
			t.Errorf("%s: %v", version, err)
		}
	}
}

// A module that uses another nested one gets that one's version set too; its path may begin another's.
func TestNestedModulesRequireEachOther(t *testing.T) {
	mod := "module m\nrequire (\n\t" + module + " v0.1.0\n\t" + module + "/b/nats v0.1.0\n)\n"
	got := edits(mod, "v0.2.0", []string{"a", "b", "b/nats"})
	want := []string{
		"-require=" + module + "@v0.2.0", "-dropreplace=" + module,
		"-require=" + module + "/b/nats@v0.2.0", "-dropreplace=" + module + "/b/nats",
	}
	if !slices.Equal(got, want) {
		t.Errorf("edits: %q", got)
	}
}

func TestWorkspacesReplaceTheVersion(t *testing.T) {
	file := filepath.Join(t.TempDir(), "go.work")
	if err := workspace(file, "v0.2.0"); err != nil {
		t.Errorf("a module without a workspace: %v", err)
	}
	text := "go 1.26.0\n\nuse .\n\nreplace " + module + " v0.1.0 => ../..\n\nreplace other v0.1.0 => ../other\n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := workspace(file, "v0.2.0"); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(file)
	if want := strings.Replace(text, module+" v0.1.0", module+" v0.2.0", 1); err != nil ||
		string(got) != want {
		t.Errorf("got %q, %v", got, err)
	}
}

// The proxy serves every published module with its own files only, and only what git tracks.
func TestProxy(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git lists the files of a module: ", err)
	}
	root, dir := t.TempDir(), t.TempDir()
	for name, content := range map[string]string{
		"go.mod": "module " + module + "\n", "ebb.go": "package ebb\n", "untracked": "no",
		"b/b.go": "package b\n", "b/nats/go.mod": "module " + module + "/b/nats\nrequire " + module + " v0.3.0\n",
		"b/nats/nats.go": "package nats\n", "internal/tools/go.mod": "module x\n",
	} {
		name = filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"init", "-q"}, {"add", "go.mod", "ebb.go", "b", "internal"}} {
		git := exec.Command("git", args...)
		git.Dir = root
		if out, err := git.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	version, err := writeProxy(root, dir, []string{"b/nats"})
	if err != nil || version != "v0.3.0" {
		t.Fatalf("version %q, %v", version, err)
	}
	for name, want := range map[string][]string{
		module:             {"b/b.go", "ebb.go", "go.mod"},
		module + "/b/nats": {"go.mod", "nats.go"},
	} {
		z, err := zip.OpenReader(filepath.Join(dir, filepath.FromSlash(name), "@v", "v0.3.0.zip"))
		if err != nil {
			t.Fatal(err)
		}
		defer z.Close()
		var got []string
		for _, f := range z.File {
			got = append(got, strings.TrimPrefix(f.Name, name+"@v0.3.0/"))
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s has %q", name, got)
		}
	}
	if _, err := required(root, nil); err == nil {
		t.Error("a proxy for nobody")
	}
}
