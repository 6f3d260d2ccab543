//go:build linux || darwin

package process_test

import (
	"bufio"
	"bytes"
	"errors"
	"strings"
	"testing"
)

// output collects lines from many writers. It is deliberately not safe for concurrent use.
type output struct{ bytes.Buffer }

func TestOutput(t *testing.T) {
	var out output
	c := config("chatter")
	c.Stdout, c.Stderr = &out, &out
	d := newDriver(t, c)
	const machines = 5
	for range machines {
		m := machine()
		start(t, d, &m)
	}
	for range machines {
		nextExit(t, d)
	}
	// All output is there before the exit is reported.
	lines := 0
	for s := bufio.NewScanner(&out); s.Scan(); lines++ {
		if !strings.HasPrefix(s.Text(), "a line on std") {
			t.Errorf("line %q is mixed up", s.Text())
		}
	}
	if lines != machines*200 {
		t.Errorf("%d lines, want %d", lines, machines*200)
	}
}

// failing is a writer that always fails.
type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestOutputThatFails(t *testing.T) {
	c := config("chatter")
	c.Stdout, c.Stderr = failing{}, failing{}
	d := newDriver(t, c)
	m := machine()
	start(t, d, &m)
	if e := nextExit(t, d); e.Code != 0 {
		t.Errorf("exit %+v: the machine suffers from the writer", e)
	}
}
