package process

import (
	"os"
	"path/filepath"
	"strconv"
)

// listens returns where the processes of the group that pid leads accept connections; ok is false
// when that cannot be found out.
func listens(pid int) (addrs []string, ok bool) {
	leader := filepath.Join("/proc", strconv.Itoa(pid), "net")
	var all []listening
	for _, list := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile(filepath.Join(leader, list))
		if err == nil {
			all = append(all, parseListening(string(text))...)
			ok = true
		}
	}
	if !ok {
		return nil, false
	}
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return nil, false
	}
	inodes := map[string]bool{}
	for _, p := range processes {
		if _, err := strconv.Atoi(p.Name()); err != nil {
			continue
		}
		dir := filepath.Join("/proc", p.Name())
		stat, err := os.ReadFile(filepath.Join(dir, "stat"))
		if err != nil {
			continue // it has ended meanwhile
		}
		if pgid, ok := groupOf(string(stat)); !ok || pgid != pid {
			continue
		}
		fds, err := os.ReadDir(filepath.Join(dir, "fd"))
		if err != nil {
			return nil, false // it has become somebody else's: what it listens to is not known
		}
		for _, fd := range fds {
			if link, err := os.Readlink(filepath.Join(dir, "fd", fd.Name())); err == nil {
				if inode, ok := socketOf(link); ok {
					inodes[inode] = true
				}
			}
		}
	}
	return addresses(all, inodes), true
}
