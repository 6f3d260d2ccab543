// Package guard keeps process groups from outliving this process, however it ends, SIGKILL
// included.
//
// A [Guard] runs a small helper: this binary executed again in a session of its own, so that a
// Ctrl-C does not reach it. The helper reads from a pipe which process groups exist. When the pipe
// ends, this process has died, and the helper kills each group that it was not told is gone. The
// kernel's parent-death signal cannot do that alone: it reaches children, not their children, and
// only Linux has it.
//
// Importing this package enables the binary to be the helper: an init function checks the program's
// name and one environment variable, and does nothing in every other process. It is in a package of
// its own because packages with few imports initialise early, before the rest of the program does
// things that a helper should not do.
package guard

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
)

const (
	// helperName is the helper's name in the process list. It does not hold the parent's name, so that
	// a kill by name of the parent spares the helper.
	helperName = "ebb-guard"
	// helperEnv marks the helper's environment.
	helperEnv = "EBB_GUARD"
	// hello is what a helper writes first. It tells the parent that the binary that it has executed is
	// a helper.
	hello = "ebb-guard 1\n"
)

// A message is one short line: a sign and a process group.
func appendAdd(b []byte, pgid int) []byte    { return fmt.Appendf(b, "+%d\n", pgid) }
func appendRemove(b []byte, pgid int) []byte { return fmt.Appendf(b, "-%d\n", pgid) }

// serve is the helper's main loop: it reads messages from r until r ends and then calls kill for
// each group that is left. A malformed or unfinished line is skipped: the kernel delivers lines
// this short whole or not at all.
func serve(r io.Reader, kill func(pgid int)) {
	groups := make(map[int]bool)
	in := bufio.NewReaderSize(r, 4096)
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			break
		}
		pgid, err := strconv.Atoi(string(line[1:max(1, len(line)-1)]))
		if err != nil || pgid <= 1 { // kill(-1) reaches every process and kill(0) our own group
			continue
		}
		switch line[0] {
		case '+':
			groups[pgid] = true
		case '-':
			delete(groups, pgid)
		}
	}
	for pgid := range groups {
		kill(pgid)
	}
}
