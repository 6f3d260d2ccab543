//go:build linux || darwin

package process_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ebbkit/ebb/autostart/process"
	"github.com/ebbkit/ebb/balance"
)

func TestNewRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "plain")
	if err := os.WriteFile(file, []byte("echo hello\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		config process.Config
		want   []string
		is     error
	}{
		{"nothing", process.Config{}, []string{"no command", "Config.Command"}, nil},
		{"only blanks", process.Config{Command: "  "}, []string{"no command"}, nil},
		{"an empty program", process.Config{Command: "'' x"}, []string{"no command"}, nil},
		{"both", process.Config{Command: "a", Argv: []string{"b"}}, []string{"Config.Command", "Config.Argv", "one of them"}, nil},
		{"open quote", process.Config{Command: "sleep '1"}, []string{`Config.Command "sleep '1"`, "not closed"}, nil},
		{"no such program", process.Config{Command: "no-such-program $PORT"},
			[]string{`Config.Command "no-such-program $PORT"`, "not found", "install it"}, exec.ErrNotFound},
		{"no such program in argv", process.Config{Argv: []string{"no-such-program"}}, []string{"Config.Argv", "no-such-program"}, exec.ErrNotFound},
		{"no such path", process.Config{Command: "/no/such/program"}, []string{"/no/such/program", "correct the path"}, os.ErrNotExist},
		{"no such path below Dir", process.Config{Command: "./program", Dir: dir}, []string{dir, "correct the path"}, os.ErrNotExist},
		{"not executable", process.Config{Command: file}, []string{file, "chmod +x"}, os.ErrPermission},
		{"a directory", process.Config{Command: dir}, []string{dir}, nil},
		{"no such Dir", process.Config{Command: "sleep 1", Dir: "/no/such/dir"}, []string{"Config.Dir", "/no/such/dir", "create it"}, os.ErrNotExist},
		{"Dir is a file", process.Config{Command: "sleep 1", Dir: file}, []string{"Config.Dir", "is a file"}, nil},
		{"Env without =", process.Config{Command: "sleep 1", Env: []string{"A=b", "C"}}, []string{`Config.Env[1] "C"`, "KEY=value"}, nil},
		{"Env sets PORT", process.Config{Command: "sleep 1", Env: []string{"PORT=80"}}, []string{`Config.Env[0] "PORT=80"`, "remove it"}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			d, err := process.New(test.config)
			if err == nil {
				_ = d.Close()
				t.Fatal("no error")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
			if !strings.HasPrefix(err.Error(), "process: ") || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %q: want one line that begins with the package", err)
			}
			if test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("error %q does not match %v", err, test.is)
			}
		})
	}
}

// Start reports a missing program if its name depends on the machine, or if it was removed after
// New.
func TestStartRefuses(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "gone")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	gone := newDriver(t, process.Config{Command: program})
	if err := os.Remove(program); err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte("no interpreter\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		d    *process.Driver
		want string
	}{
		{"depends on the machine", newDriver(t, process.Config{Command: dir + "/run-$APP $PORT"}), "correct the path"},
		{"gone", gone, "has gone"},
		{"not a program", newDriver(t, process.Config{Command: script}), "needs #!"},
	} {
		m := aMachine()
		m.Epoch = 1
		for range 2 { // a failed start does not block the next one
			if _, err := test.d.Start(t.Context(), m); err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), string(m.ID)) {
				t.Errorf("%s: error %v, want %q and the machine", test.name, err, test.want)
			}
		}
		if err := test.d.Stop(t.Context(), m); err != nil {
			t.Errorf("%s: Stop: %v", test.name, err)
		}
	}
	if _, err := gone.Start(t.Context(), balance.Machine{}); err == nil || !strings.Contains(err.Error(), "Machine.ID") {
		t.Errorf("Start of a machine without an ID: %v", err)
	}
}
