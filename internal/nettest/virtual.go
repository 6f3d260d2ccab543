package nettest

import (
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
)

var oneProcessor sync.Mutex // tests that run in parallel take turns

// Virtual is synctest.Test for whole stacks of HTTP. They run on one processor: a timer of a bubble that
// is over when it begins runs at once, where it is made, and where two processors do so at a time the
// race detector crashes (go.dev/issue/78156). httputil.ReverseProxy begins such a timer for each answer
// whose length is unknown. The race detector needs no second processor to see a race.
func Virtual(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	oneProcessor.Lock()
	defer oneProcessor.Unlock()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	synctest.Test(t, f)
}
