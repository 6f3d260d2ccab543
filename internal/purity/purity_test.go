package purity

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// packages are the folders that decide: each of their files is parsed, tests apart, and they import
// only one another and [values].
var packages = []string{
	"autostart/internal/boots",
	"autostart/internal/waitroom",
	"autostart/machine/internal/health",
	"autostart/policy",
	"autostart/process/internal/parse",
	"backhaul/internal/hop",
	"balance/exchange/internal/core",
	"balance/exchange/internal/wire",
	"balance/grants/internal/deal",
	"balance/internal/granting",
	"downscale/cordon",
	"downscale/policy",
	"internal/cities",
	"internal/delay/queue",
	"internal/enum",
	"internal/events",
	"internal/scaledown",
	"rtt/internal/estimate",
	"rtt/internal/probe",
}

// values are packages that pure packages import for their rows and views, though they also act.
var values = []string{"balance"}

// shells are the files that act, by folder, of packages whose other files decide. What one node
// knows and who it picks share the package: cells, rows and views are one thing to both.
var shells = map[string]string{
	"balance": "balancer fleet gate reservation update",
}

// allowed are imports that a file which decides may have all the same, by folder and file.
var allowed = map[string][]string{
	// The strategies' dense arrays: words that are shared without locks, the one kind of memory
	// that balance shares.
	"balance/cell":     {"sync/atomic"},
	"balance/region":   {"sync/atomic"},
	"balance/snapshot": {"sync/atomic"},
}

func TestPackagesArePure(t *testing.T) {
	for _, dir := range packages {
		check(t, dir, "", slices.Concat(packages, values))
	}
}

func TestOnlyShellsAct(t *testing.T) {
	for dir, acting := range shells {
		check(t, dir, acting, slices.Concat(packages, values))
	}
}

// The simulation has no clock and no goroutine: it steps what a caller may step with a time of its
// own, wherever that stands.
func TestTheSimulationIsPure(t *testing.T) {
	stepped := []string{"backhaul", "balance/grants"}
	check(t, "internal/sim", "", slices.Concat(packages, values, stepped))
}

// check parses the files of a folder but those that act, which have to be there.
func check(t *testing.T, dir, acting string, pure []string) {
	files, err := Files(filepath.Join("..", "..", filepath.FromSlash(dir)))
	if err != nil || len(files) == 0 {
		t.Errorf("%s: no files (%v): the list names a package that is not there", dir, err)
	}
	left := strings.Fields(acting)
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".go")
		if i := slices.Index(left, name); i >= 0 {
			left = slices.Delete(left, i, i+1)
			continue
		}
		found, err := Check(file, allowed[dir+"/"+name]...)
		if err != nil {
			t.Error(err)
		}
		for _, f := range found {
			t.Errorf("%s/%s: a core decides and does not act", dir, f)
		}
		imports, err := Impure(file, pure)
		if err != nil {
			t.Error(err)
		}
		for _, s := range imports {
			t.Errorf("%s/%s.go: imports %s, which is not pure", dir, name, s)
		}
	}
	if len(left) > 0 {
		t.Errorf("%s: no files %v: the list of what acts names files that are not there", dir, left)
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
	for _, want := range []string{
		"imports sync", "starts a goroutine", "uses a channel", "sends on a channel",
		"receives from a channel", "waits in a select", "calls time.Now",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("missed %q in\n%s", want, got)
		}
	}
	if found, _ := Check(file, "sync"); strings.Contains(strings.Join(found, "\n"), "imports sync") {
		t.Error("an allowed import is reported")
	}
}

func TestImpureFinds(t *testing.T) {
	dir := t.TempDir()
	source := "package p\nimport (\"time\"; \"" + module + "balance\"; \"" + module + "rtt\")\n"
	for _, name := range []string{"core.go", "core_test.go"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(source), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files, err := Files(dir)
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v: want the one file that is no test", files, err)
	}
	if got, err := Impure(files[0], values); err != nil || !slices.Equal(got, []string{"rtt"}) {
		t.Errorf("%v, %v: want rtt", got, err)
	}
}
