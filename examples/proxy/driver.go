package main

import (
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/ebbkit/ebb/autostart/process"
	"github.com/ebbkit/ebb/internal/demoapp"
	"github.com/ebbkit/ebb/internal/world"
)

// lines lets the drivers of all regions write to one writer, line by line.
type lines struct {
	mu  sync.Mutex
	out io.Writer
}

func (l *lines) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(line)
}

// driver returns a func that makes the driver of a region. What the machines print goes to out.
func (s settings) driver(out io.Writer) (func(region string) (world.Driver, error), error) {
	c := process.Config{Command: s.app}
	if s.print {
		c.Output = &lines{out: out}
	}
	if s.app == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf(
				"the built-in app is this program executed again, which cannot be found: %w; use -app", err,
			)
		}
		c.Argv, c.Env = []string{self}, demoapp.Env(s.boot)
	}
	return func(string) (world.Driver, error) {
		d, err := process.New(c)
		if err != nil && s.app != "" {
			return nil, fmt.Errorf("-app %q: %w", s.app, err)
		}
		return d, err
	}, nil
}
