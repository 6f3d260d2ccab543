package process

import (
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/ebbkit/ebb/autostart/process/internal/parse"
)

// lookAt looks at the processes of the group that pid leads; ok is false when that is not possible.
func lookAt(pid int) (g seen, ok bool) {
	leader := filepath.Join("/proc", strconv.Itoa(pid), "net")
	var all []parse.Listening
	for _, list := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile(filepath.Join(leader, list))
		if err == nil {
			all = append(all, parse.ParseListening(string(text))...)
			ok = true
		}
	}
	if !ok {
		return g, false
	}
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return g, false
	}
	inodes := map[string]bool{}
	for _, p := range processes {
		id, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		// Getpgid is much cheaper than reading the stat file.
		if group, err := syscall.Getpgid(id); err != nil || group != pid {
			continue
		}
		dir := filepath.Join("/proc", p.Name())
		stat, err := os.ReadFile(filepath.Join(dir, "stat"))
		if err != nil {
			continue // it has ended meanwhile
		}
		st, ok := parse.ParseStat(string(stat))
		if !ok || st.Group != pid {
			continue
		}
		g.cpu += st.CPU
		g.busy = g.busy || st.Busy || anyThreadBusy(dir)
		fds, err := os.ReadDir(filepath.Join(dir, "fd"))
		if err != nil {
			return g, false // it runs as another user now: where it listens cannot be seen
		}
		for _, fd := range fds {
			if link, err := os.Readlink(filepath.Join(dir, "fd", fd.Name())); err == nil {
				if inode, ok := parse.SocketOf(link); ok {
					inodes[inode] = true
				}
			}
		}
	}
	g.listens = parse.Addresses(all, inodes)
	return g, true
}

// anyThreadBusy reports whether a thread of the process in dir runs, wants to, or waits for a disk.
func anyThreadBusy(dir string) bool {
	threads, err := os.ReadDir(filepath.Join(dir, "task"))
	if err != nil {
		return false // it has ended meanwhile
	}
	for _, t := range threads {
		if stat, err := os.ReadFile(filepath.Join(dir, "task", t.Name(), "stat")); err == nil {
			if st, ok := parse.ParseStat(string(stat)); ok && st.Busy {
				return true
			}
		}
	}
	return false
}
