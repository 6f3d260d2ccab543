package process

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ebbkit/ebb/autostart/process/internal/parse"
)

// command is a checked Config.
type command struct {
	words       []string
	field       string // the field the words come from, for messages
	path        string // the program; empty when its name depends on the machine
	env         []string
	dir         string
	to          io.Writer     // Config.Output; nil: nowhere
	stopTimeout time.Duration // <= 0: none
}

// resolve checks c and sets r from it.
func (r *command) resolve(c Config) error {
	switch {
	case c.Command != "" && len(c.Argv) > 0:
		return fmt.Errorf("Config.Command %q and Config.Argv %q: set one of them", c.Command, c.Argv)
	case c.Command != "":
		words, err := parse.Words(c.Command)
		if err != nil {
			return fmt.Errorf("Config.Command %q: %w", c.Command, err)
		}
		r.words, r.field = words, fmt.Sprintf("Config.Command %q", c.Command)
	default:
		r.words, r.field = slices.Clone(c.Argv), fmt.Sprintf("Config.Argv %q", c.Argv)
	}
	if len(r.words) == 0 || r.words[0] == "" {
		return errors.New(
			"no command: set Config.Command (or Config.Argv) to the program a machine is and its arguments",
		)
	}
	for i, kv := range c.Env {
		name, _, ok := strings.Cut(kv, "=")
		if !ok || name == "" {
			return fmt.Errorf("Config.Env[%d] %q: want KEY=value", i, kv)
		}
		if slices.Contains(parse.VariableNames[:], name) {
			return fmt.Errorf("Config.Env[%d] %q: the driver sets %s itself: remove it", i, kv, name)
		}
	}
	r.env = slices.Clone(c.Env)
	if c.Dir != "" {
		dir, err := filepath.Abs(c.Dir)
		if err != nil {
			return fmt.Errorf("Config.Dir %q: %w", c.Dir, err)
		}
		if info, err := os.Stat(dir); err != nil {
			return fmt.Errorf("Config.Dir: %w: create it or name another", err)
		} else if !info.IsDir() {
			return fmt.Errorf("Config.Dir %q is a file: name a directory", c.Dir)
		}
		r.dir = dir
	}
	if !parse.UsesVariable(r.words[0]) {
		path, err := lookPath(r.words[0], r.dir)
		if err != nil {
			return fmt.Errorf("%s: %w", r.field, err)
		}
		r.path = path
	}
	r.stopTimeout = c.StopTimeout
	if r.stopTimeout == 0 {
		r.stopTimeout = defaultStopTimeout
	}
	if c.Output != nil {
		r.to = &sharedWriter{w: c.Output}
	}
	return nil
}

// lookPath finds the program called name as a child with the working directory dir would, and
// returns an absolute path, so that what was checked is what will run.
func lookPath(name, dir string) (string, error) {
	file := name
	if dir != "" && strings.ContainsRune(filepath.ToSlash(name), '/') && !filepath.IsAbs(name) {
		file = filepath.Join(dir, name)
	}
	path, err := exec.LookPath(file)
	switch {
	case err == nil:
		return filepath.Abs(path)
	case errors.Is(err, exec.ErrDot):
		return "", fmt.Errorf("%w: write .%c%s to run that one", err, filepath.Separator, name)
	case errors.Is(err, os.ErrPermission):
		return "", fmt.Errorf("%w: make it executable (chmod +x), or name another program", err)
	case file == filepath.Base(file):
		return "", fmt.Errorf(
			"%w: install it or give its path (there is no shell: built-ins and aliases do not work)", err,
		)
	}
	return "", fmt.Errorf("%w: correct the path", err)
}

// cmd returns the command for a machine with these variables.
func (c *command) cmd(v parse.Variables) (*exec.Cmd, error) {
	words := make([]string, len(c.words))
	for i, w := range c.words {
		words[i] = v.Expand(w)
	}
	path := c.path
	if path == "" {
		var err error
		if path, err = lookPath(words[0], c.dir); err != nil {
			return nil, fmt.Errorf("%s: %w", c.field, err)
		}
	}
	env := os.Environ()
	for _, kv := range c.env {
		env = append(env, v.Expand(kv))
	}
	return &exec.Cmd{
		Path:        path,
		Args:        words,
		Env:         append(env, v.Environ()...),
		Dir:         c.dir,
		WaitDelay:   outputPatience,
		SysProcAttr: attributes(),
	}, nil
}

// output returns what a machine of that name writes to, both streams to the same writer, so that
// lines stay in order.
func (c *command) output(name string) *output {
	o := &output{}
	if c.to != nil {
		o.lines = &lineWriter{w: c.to, prefix: name + " | "}
	}
	return o
}
