package parse

import (
	"strconv"
	"strings"
)

// ProcessStat is what is used of a /proc/<pid>/stat.
type ProcessStat struct {
	Group int
	Busy  bool
	CPU   uint64
}

// ParseStat reads a /proc/<pid>/stat.
func ParseStat(stat string) (p ProcessStat, ok bool) {
	i := strings.LastIndexByte(stat, ')') // the name before it may hold anything
	f := strings.Fields(stat[i+1:])       // state, parent, group, ... utime, stime, cutime, cstime
	if i < 0 || len(f) < 15 {
		return p, false
	}
	group, err := strconv.Atoi(f[2])
	if err != nil {
		return p, false
	}
	p = ProcessStat{Group: group, Busy: f[0] == "R" || f[0] == "D"}
	for _, field := range f[11:15] {
		n, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			return p, false
		}
		p.CPU += n
	}
	return p, true
}
