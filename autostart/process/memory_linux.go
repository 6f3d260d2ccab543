package process

import (
	"fmt"
	"os"

	"github.com/ebbkit/ebb/autostart/process/internal/parse"
)

// memoryWatch remembers the count of out-of-memory kills at a machine's start. See [Driver.Watch]
// for the heuristic.
type memoryWatch struct {
	file  parse.CounterFile
	count uint64
	ok    bool
}

// watchMemory begins to watch the child pid.
func watchMemory(pid int) memoryWatch {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return memoryWatch{}
	}
	for _, file := range parse.CounterFiles(string(text)) {
		if n, ok := readCounter(file); ok {
			return memoryWatch{file: file, count: n, ok: true}
		}
	}
	return memoryWatch{}
}

// killed reports whether the count has grown.
func (w memoryWatch) killed() bool {
	if !w.ok {
		return false
	}
	n, ok := readCounter(w.file)
	return ok && n > w.count
}

func readCounter(f parse.CounterFile) (uint64, bool) {
	text, err := os.ReadFile(f.Path)
	if err != nil {
		return 0, false
	}
	return parse.Counter(string(text), f.Key)
}
