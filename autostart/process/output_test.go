//go:build linux || darwin

package process_test

import (
	"bufio"
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ebbkit/ebb/autostart/machine"
)

// output collects lines from many writers. It is deliberately not safe for concurrent use.
type output struct{ bytes.Buffer }

// failing is a writer that always fails.
type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestOutputThatFails(t *testing.T) {
	c := config("chatter")
	c.Output = failing{}
	d := newDriver(t, c)
	m := aMachine()
	start(t, d, &m)
	if e := nextExit(t, d); e.Code != 0 {
		t.Errorf("exit %+v: the machine suffers from the writer", e)
	}
}

// The last line that a machine has printed appears in the reason of its exit, and all lines go to
// Output with its name.
func TestLastWordsOfAMachine(t *testing.T) {
	var out output
	c := config("moaner")
	c.Output = &out
	d := newDriver(t, c)
	m := aMachine()
	start(t, d, &m)
	e := nextExit(t, d)
	if !strings.HasPrefix(e.Reason, "exit status 3, ") || !strings.HasSuffix(e.Reason, "start: [31mModuleNotFoundError[0m: nosuchmodule") {
		t.Errorf("reason %q", e.Reason)
	}
	name := string(m.App) + "/" + string(m.ID) + " | "
	want := name + "starting\n" + name + "Traceback (most recent call last):\n" + name + "  File \"app.py\", line 1\n" +
		name + "\x1b[31mModuleNotFoundError\x1b[0m: nosuchmodule\n"
	if got := out.String(); got != want {
		t.Errorf("output %q, want %q", got, want)
	}
}

func TestOutput(t *testing.T) {
	var all output
	c := config("chatter")
	c.Output = &all
	d := newDriver(t, c)
	const machines = 5
	for range machines {
		m := aMachine()
		start(t, d, &m)
	}
	for range machines {
		nextExit(t, d)
	}
	// All output is there before the exit is reported.
	lines := 0
	for s := bufio.NewScanner(&all); s.Scan(); lines++ {
		if name, line, ok := strings.Cut(s.Text(), " | "); !ok || !strings.HasPrefix(name, "app/m-") || !strings.HasPrefix(line, "a line on std") {
			t.Errorf("line %q is mixed up", s.Text())
		}
	}
	if lines != machines*200 {
		t.Errorf("%d lines in all, want %d", lines, machines*200)
	}
}

// A machine that prints without end is held up, and can be stopped.
func TestFloodOfOutput(t *testing.T) {
	c := config("flood")
	c.Output = nil
	d := newDriver(t, c)
	m := aMachine()
	start(t, d, &m)
	for { // until it has printed something
		got, err := d.Describe(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		if got.Output == "a line of a program that has lost its mind" {
			break
		}
	}
	if err := d.Stop(t.Context(), m); err != nil {
		t.Error(err)
	}
}

// Describe finds all addresses at which the machine's processes listen, and no others.
func TestDescribe(t *testing.T) {
	c := config("astray")
	c.Output = nil
	d := newDriver(t, c)
	m, other := aMachine(), aMachine()
	if _, err := d.Describe(t.Context(), m); err == nil {
		t.Error("of a machine that does not run")
	}
	start(t, d, &other)
	start(t, d, &m)
	var got machine.Description
	for deadline := time.Now().Add(patience); len(got.Listens) < 2 || got.Output == ""; {
		var err error
		if got, err = d.Describe(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		if !got.Known && got.Output != "" {
			t.Skip("this system does not say who listens where")
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v", got)
		}
		<-time.After(time.Millisecond)
	}
	at, ok := strings.CutPrefix(got.Output, "listening at ")
	if !ok || !got.Known || len(got.Listens) != 2 || !slices.Contains(got.Listens, at) {
		t.Errorf("%+v", got)
	}
}

// Describe tells a machine that waits from one that works.
func TestDescribeSaysWhetherAMachineDoesAnything(t *testing.T) {
	c := config("worker")
	c.Output = nil
	d := newDriver(t, c)
	worker := aMachine()
	start(t, d, &worker)
	c = config("sleeper")
	c.Output = nil
	d2 := newDriver(t, c)
	sleeper := aMachine()
	start(t, d2, &sleeper)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		got, err := d2.Describe(t.Context(), sleeper)
		if err != nil {
			t.Fatal(err)
		}
		if !got.Known {
			t.Skip("this system does not say what a process does")
		}
		busy, err := d.Describe(t.Context(), worker)
		if err != nil || busy.Idle != 0 {
			t.Fatalf("the one that works: %+v, %v", busy, err)
		}
		if got.Idle > 100*time.Millisecond {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the one that waits: %+v", got)
		}
	}
}

func init() {
	children["worker"] = func() int {
		n := uint64(1)
		for n != 0 { // always
			n = n*3 | 1
		}
		return 0
	}
	children["sleeper"] = func() int { select {} }
}
