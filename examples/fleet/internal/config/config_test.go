package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

const good = `
cluster: test
node: nrt-1
region: nrt
regions: {nrt: 1ms, hkg: 48ms}
keys: [0123456789abcdef]
listen: 127.0.0.1:8080
hop: 127.0.0.1:8081
engine:
  url: nats://127.0.0.1:4222
drivers:
  python: {command: python3 -m http.server $PORT}
apps:
  web:
    driver: python
    machines: 2
    soft: 8
    hard: 16
    regions: [nrt]
    keep_alive: 30s
hosts:
  www.example.org: web
`

func TestParse(t *testing.T) {
	f, err := Parse("fleet.yaml", []byte(good), RoleBoth)
	if err != nil {
		t.Fatal(err)
	}
	if f.Regions["hkg"] != 48*time.Millisecond || f.Apps["web"].Hard != 16 {
		t.Errorf("Parse: %+v", f)
	}
	app := f.Apps["web"].Balance("web")
	if app.Limits.Soft != 8 || !app.Autostart || app.KeepAlive != 30*time.Second {
		t.Errorf("Balance: %+v", app)
	}
}

// TestRefused: a fault is reported with the line, the field, the value and the remedy.
func TestRefused(t *testing.T) {
	for _, x := range []struct{ was, is, want string }{
		{"machines: 2", "machine: 2", `:16: apps.web.machine: there is no such key: did you mean "machines"?`},
		{"cluster: test", "zzzzzzz: test", `:2: zzzzzzz: there is no such key: want one of apps, cluster, `},
		{"region: nrt\n", "region: ntr\n", `:4: region: "ntr": there is no such region: did you mean "nrt"?`},
		{"regions: [nrt]", "regions: [fra]", `:19: apps.web.regions: "fra": there is no such region`},
		{"driver: python", "driver: pyton", `:15: apps.web.driver: "pyton": there is no such driver: did you mean "python"?`},
		{"    driver: python\n", "", `:14: apps.web.driver: is missing: want what runs its machines, one of python`},
		{"org: web", "org: wbe", `:22: hosts.www.example.org: "wbe": there is no such app: did you mean "web"?`},
		{"machines: 2", "machines: two", ":16: cannot unmarshal !!str `two` into int"},
		{"machines: 2", "machines: 20000", `:16: apps.web.machines: 20000: want 0 to 10000`},
		{"keep_alive: 30s", "keep_alive: 30", `:20: `},
		{"soft: 8", "soft: 80", `:17: apps.web.soft: 80: want at most hard, which is 16`},
		{"soft: 8", "soft: 8\n    soft: 9", `already defined at line 17`},
		{"node: nrt-1\n", "", `:1: node: is missing`},
		{"0123456789abcdef", "short", `:6: keys: number 1 has 5 bytes: want at least 16`},
		{"keys: [0123456789abcdef]\n", "", `keys: are missing`},
		{"hop: 127.0.0.1:8081", "hop: 8081", `:8: hop: "8081": want an address and a port`},
		{"listen: 127.0.0.1:8080\n", "", `listen: is missing`},
		{"nats://127.0.0.1:4222", "4222", `:10: engine.url: "4222": want an address such as nats://`},
		{"{command: python3 -m http.server $PORT}", "{}", `:12: drivers.python: has no command`},
		{"www.example.org: web", "www.example.org:80: web", `want a name in lower case and without a port`},
		{"keep_alive: 30s", "autostop: never", `:20: apps.web.autostop: "never": want off, stop or suspend`},
		{good, "", "is empty"},
		{"hosts:", "---\nhosts:", "has a second document"},
		{"engine:", "engine: [", "yaml: "},
	} {
		text := strings.Replace(good, x.was, x.is, 1)
		if text == good {
			t.Fatalf("%q is not there", x.was)
		}
		_, err := Parse("fleet.yaml", []byte(text), RoleBoth)
		if err == nil || !strings.Contains(err.Error(), x.want) ||
			!strings.HasPrefix(err.Error(), "fleet.yaml") {
			t.Errorf("%q: %v, want fleet.yaml…%s", x.is, err, x.want)
		}
	}
}

func TestAllFaultsAtOnce(t *testing.T) {
	text := strings.NewReplacer("driver: python", "driver: ruby", "region: nrt", "region: fra").
		Replace(good)
	_, err := Parse("fleet.yaml", []byte(text), RoleBoth)
	if err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("Parse: %v, want two lines", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("a: &a {b: *a}\n<<: *a"))
	f.Fuzz(func(t *testing.T, text []byte) { Parse("fuzz", text, RoleBoth) })
}

// TestWatcher: changes are reported, and a faulty configuration changes nothing.
func TestWatcher(t *testing.T) {
	name := filepath.Join(t.TempDir(), "fleet.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(name+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(name+".new", name); err != nil {
			t.Fatal(err)
		}
	}
	write(good)
	f, err := Read(name, RoleBoth)
	if err != nil {
		t.Fatal(err)
	}
	hup := make(chan os.Signal, 1)
	changed, refused := make(chan []string, 9), make(chan error, 9)
	w := Watcher{
		Name: name, Role: RoleBoth, Again: hup, Every: time.Millisecond,
		Changed: func(before, after *File) {
			changed <- append(Fixed(before, after), after.Apps["web"].Driver)
		},
		Refused: func(err error) { refused <- err },
	}
	over := make(chan error, 1)
	go func() { over <- w.Run(t.Context(), f) }()
	hup <- syscall.SIGHUP // nothing has changed
	write(strings.Replace(good, "hard: 16", "hard: 17", 1))
	if got := <-changed; !slices.Equal(got, []string{"python"}) {
		t.Errorf("a limit: %q, want it in force", got)
	}
	write(strings.Replace(good, "hard: 16", "hart: 17", 1))
	if err := <-refused; !strings.Contains(err.Error(), `did you mean "hard"?`) {
		t.Errorf("refused: %v", err)
	}
	write(strings.Replace(good, "node: nrt-1", "node: nrt-2", 1))
	if got := <-changed; !slices.Equal(got, []string{"node", "python"}) {
		t.Errorf("another name: %q, want it told that it does not hold yet", got)
	}
}

// TestReadme: the example in the README is valid.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, ok := strings.Cut(string(text), "```yaml\n")
	if !ok {
		t.Fatal("the README has no example")
	}
	block, _, _ = strings.Cut(block, "```")
	if _, err := Parse("worker.yaml", []byte(block), RoleWorker); err != nil {
		t.Error(err)
	}
}
