package parse

import (
	"path"
	"strconv"
	"strings"
)

// CounterFile is a file that counts processes killed for lack of memory, and the key of the line
// that holds the number.
type CounterFile struct{ Path, Key string }

// CounterFiles returns the files that may count the kills that concern a process, the narrowest
// first. cgroup is the text of its /proc/<pid>/cgroup. Inside a container the paths there may be
// those of the host, while the container sees its own group as the root: so each group is also
// looked for there. The count of the whole host comes last.
func CounterFiles(cgroup string) []CounterFile {
	var files []CounterFile
	add := func(dir, group, file string) {
		files = append(files, CounterFile{path.Join(dir, group, file), "oom_kill"})
		if group != "/" {
			files = append(files, CounterFile{path.Join(dir, file), "oom_kill"})
		}
	}
	for line := range strings.Lines(cgroup) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		for controller := range strings.SplitSeq(fields[1], ",") {
			switch {
			case fields[0] == "0" && controller == "":
				add("/sys/fs/cgroup", fields[2], "memory.events")
			case controller == "memory":
				add("/sys/fs/cgroup/memory", fields[2], "memory.oom_control")
			}
		}
	}
	return append(files, CounterFile{"/proc/vmstat", "oom_kill"})
}

// Counter returns the number behind key in text, which holds a key and a number per line.
func Counter(text, key string) (n uint64, ok bool) {
	for line := range strings.Lines(text) {
		if k, v, found := strings.Cut(strings.TrimSpace(line), " "); found && k == key {
			n, err := strconv.ParseUint(v, 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}
