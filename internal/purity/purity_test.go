package purity

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// cores are the files that decide, by folder.
var cores = map[string]string{
	"autostart":         "planner bounded rate diagnosis plan pace stops liveness memory reason backoff boot waiters retry wants probes regions policy rules extra history idle ramp leaving",
	"autostart/process": "words exit cgroup lastline sockets",
	"balance":           "affinity app asks balance bounce closest draw errors explain leastload look machine nothing order outlier pack past request slice slots snapshot spill strategy tier update view want waterfill word area index region row",
	"rtt":               "agree build choose clock estimator flight ladder loss order packet reflector schedule stat table vector",
	"backhaul":          "decide load bounce errors trace preface windows budget trail frames stall keyauth liveness service tail",
	"downscale":         "protocol cordon words retry decider decision spare window policy bounds excess preset connections pauses",
	"internal/delay":    "cities line stream",
	"internal/events":   "ring",
	"internal/sim":      "sim queue rand dist world machine owner edge grants result rules view reference prequal oracle",
}

// allowed are imports that a core file may have all the same, with the reason.
var allowed = map[string][]string{
	// The strategies' dense arrays: words that are shared without locks, the one kind of memory that balance shares.
	"balance/area":   {"sync/atomic"},
	"balance/index":  {"sync/atomic"},
	"balance/region": {"sync/atomic"},
	"balance/row":    {"sync/atomic"},
	// Done passes the request's context on: a value here.
	"backhaul/trace": {"context"},
}

func TestCoresArePure(t *testing.T) {
	for dir, names := range cores {
		for name := range strings.FieldsSeq(names) {
			file := filepath.Join("..", "..", filepath.FromSlash(dir), name+".go")
			found, err := Check(file, allowed[dir+"/"+name]...)
			if err != nil {
				t.Errorf("%s: %v: the list of cores names a file that is not there", dir, err)
			}
			for _, f := range found {
				t.Errorf("%s/%s: a core decides and does not act", dir, f)
			}
		}
	}
}

func TestCheckFinds(t *testing.T) {
	file := filepath.Join(t.TempDir(), "core.go")
	source := `package p
import ("sync"; "time")
var mu sync.Mutex
func f(c chan int) time.Time {
	go f(nil)
	c <- 1
	<-c
	select {}
	return time.Now()
}`
	if err := os.WriteFile(file, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	found, err := Check(file)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Join(found, "\n")
	for _, want := range []string{"imports sync", "starts a goroutine", "uses a channel", "sends on a channel", "receives from a channel", "waits in a select", "calls time.Now"} {
		if !strings.Contains(got, want) {
			t.Errorf("missed %q in\n%s", want, got)
		}
	}
	if found, _ := Check(file, "sync"); strings.Contains(strings.Join(found, "\n"), "imports sync") {
		t.Error("an allowed import is reported")
	}
}
